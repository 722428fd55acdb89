"""The commands of the CI recipes, as they stand there, with the real command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import junitparser
import pytest
import yaml

RECIPES = Path(__file__).resolve().parents[2] / "examples/ci"
BIN = Path(sys.executable).parent
# The only lines that are not run here: those that set a machine up. All others are.
INSTALLS = ("git clone ", "python -m pip install ")


@dataclass(frozen=True)
class Recipe:
    commands: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]
    artifacts: tuple[str, ...]
    junit: str

    def run(self, folder: Path, commands: tuple[str, ...] | None = None, **changed: str) -> int:
        """The exit code of the commands in one shell, which stops at the first that fails, as both services do."""
        environment = {
            **os.environ,
            **dict(self.variables),
            **changed,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        script = "\n".join(self.commands if commands is None else commands)
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=folder, env=environment, check=False)
        return done.returncode


def github() -> Recipe:
    (job,) = yaml.safe_load((RECIPES / "github-actions.yml").read_text())["jobs"].values()
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    (upload,) = [step["with"]["path"] for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    (report,) = [name for name in upload.split() if name.endswith(".xml")]
    return recipe(lines, job["env"], upload.split(), report)


def gitlab() -> Recipe:
    (job,) = yaml.safe_load((RECIPES / "gitlab-ci.yml").read_text()).values()
    lines = [*job["before_script"], *job["script"]]
    return recipe(lines, job["variables"], job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"])


def recipe(lines: list[str], variables: dict[str, str], artifacts: list[str], report: str) -> Recipe:
    kept = [line for line in lines if not line.startswith(INSTALLS)]
    assert len(kept) < len(lines), "nothing is installed"
    wanted = tuple((name, value) for name, value in variables.items() if name in "\n".join(kept))
    return Recipe(tuple(kept), wanted, tuple(artifacts), report)


@pytest.fixture(scope="module", params=dict.fromkeys([github(), gitlab()]), ids=lambda found: found.junit)
def found(request) -> Recipe:
    """Each recipe; once, where both say the same."""
    return request.param


@pytest.fixture(scope="module")
def made(found, tmp_path_factory) -> Path:
    """The folder in which it was run."""
    folder = tmp_path_factory.mktemp("ci")
    assert found.run(folder) == 0
    return folder


def test_it_passes_and_leaves_every_artifact_that_it_names(found, made):
    for pattern in (*found.artifacts, found.junit):
        assert list(made.glob(pattern)), pattern
    cases = [case for suite in junitparser.JUnitXml.fromfile(str(made / found.junit)) for case in suite]
    assert {case.classname for case in cases} >= {f"compressed.{suite}" for suite in ("files", "decode", "accuracy")}
    assert all(case.is_passed for case in cases)
    took = {case.classname: case.time for case in cases}
    assert all(took[f"compressed.{suite}"] > 0 for suite in ("head", "compressor", "tail", "prefill", "decode"))


@pytest.mark.parametrize("name", ["encoder.onnx", "proof.npz"])
def test_a_bundle_that_was_damaged_on_the_way_fails_it(found, made, tmp_path, name):
    """Everything behind the export is run again, on a copy with one byte changed."""
    shutil.copytree(made / "compressed", tmp_path / "compressed")
    data = bytearray((tmp_path / "compressed" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "compressed" / name).write_bytes(data)
    later = tuple(line for line in found.commands if not line.startswith("tokexport model "))
    assert found.run(tmp_path, later) == 2
    assert junitparser.JUnitXml.fromfile(str(tmp_path / found.junit)).errors == 1


def test_too_high_a_gate_on_accuracy_fails_it(found, made, tmp_path):
    shutil.copytree(made / "compressed", tmp_path / "compressed")
    later = tuple(line for line in found.commands if not line.startswith("tokexport model "))
    assert found.run(tmp_path, later, MIN_ACCURACY="1") == 1
    assert junitparser.JUnitXml.fromfile(str(tmp_path / found.junit)).failures == 1


def test_an_export_that_fails_stops_the_script(found, tmp_path):
    assert found.run(tmp_path, METHOD="no-such-method") == 2
    assert not list(tmp_path.iterdir())


def test_the_page_about_them_shows_the_same_commands():
    page = RECIPES.parents[1] / "docs/ci.md"
    (block,) = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    assert tuple(block.splitlines()) == github().commands == gitlab().commands


@pytest.mark.parametrize(
    ("schema", "name"), [("github-workflows", "github-actions.yml"), ("gitlab-ci", "gitlab-ci.yml")]
)
def test_it_keeps_the_published_schema(schema, name):
    command = [BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", RECIPES / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_actions_are_pinned_by_commit_and_permissions_are_the_least():
    text = (RECIPES / "github-actions.yml").read_text()
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    uses = re.findall(r"uses: (\S+)", text)
    assert uses and all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in uses)
