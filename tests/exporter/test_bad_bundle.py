"""Bundles that are damaged or lack something, and commands that end in the middle: none is lost, none half written."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bad_input import plain, snapshot
from click.testing import CliRunner
from tokexport.exporter.cli import main

TOKEXPORT = Path(sys.executable).with_name("tokexport")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A small bundle, made once; tests work on copies."""
    folder = tmp_path_factory.mktemp("bundles")
    file = plain(folder / "m.onnx")
    arguments = [
        "model",
        file,
        "--method",
        "kcenter_merge",
        "--keep",
        "3",
        "--seam",
        "tensor:features",
        "-o",
        folder / "b",
    ]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return folder / "b"


def spoil(kind: str, folder: Path) -> tuple[str, ...]:
    manifest = json.loads((folder / "manifest.json").read_text())
    data = bytearray((folder / "encoder.onnx").read_bytes())
    if kind == "hash":
        data[-1] ^= 1
        (folder / "encoder.onnx").write_bytes(data)
        return "encoder.onnx", "changed"
    if kind == "size":
        (folder / "encoder.onnx").write_bytes(data[:-1])
        return "encoder.onnx", f"{len(data) - 1} bytes, not {len(data)}"
    if kind == "missing":
        (folder / "encoder.onnx").unlink()
        return "encoder.onnx", "missing"
    manifest |= {"schema": {"schema": "3.0"}, "key": {"colour": 1}}[kind]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return ("3.0", "pip install -U tokexport") if kind == "schema" else ("'colour'", "manifest.json")


@pytest.mark.parametrize("kind", ["hash", "size", "missing", "key"])
def test_a_damaged_bundle_is_not_verified(refused, bundle, tmp_path, kind):
    shutil.copytree(bundle, tmp_path / "b")
    refused("verify", "b", says=spoil(kind, tmp_path / "b"))


EDITS = {
    "a weight of slots": lambda one: one["compression"][0].update(size_bias=not one["compression"][0]["size_bias"]),
    "a count": lambda one: one["compression"][0].update(tokens_in=13),
    "a method": lambda one: one["compression"][0].update(method="apet"),
    "no compressor": lambda one: one.update(compression=[]),
    "outputs": lambda one: one["graphs"]["encoder"]["outputs"].pop("sizes"),
}


@pytest.mark.parametrize("edit", sorted(EDITS))
def test_what_was_edited_in_a_manifest_is_not_proved(refused, bundle, tmp_path, edit):
    shutil.copytree(bundle, tmp_path / "b")
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    EDITS[edit](manifest["variants"][0])
    (tmp_path / "b/manifest.json").write_text(json.dumps(manifest))
    refused("verify", "b", says=("manifest.json says something else", "Put the exported manifest.json back"))


def test_keys_of_ones_own_and_another_layout_change_nothing(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    manifest["x-team"] = manifest["variants"][0]["x-note"] = {"any": 1}
    (tmp_path / "b/manifest.json").write_text(json.dumps(manifest, sort_keys=True))
    assert CliRunner().invoke(main, ["verify", str(tmp_path / "b")]).exit_code == 0
    # Bundles of older versions have no seal.
    del manifest["parity"]["sealed"]
    manifest["variants"][0]["compression"][0]["method"] = "renamed"
    (tmp_path / "b/manifest.json").write_text(json.dumps(manifest))
    assert CliRunner().invoke(main, ["verify", str(tmp_path / "b")]).exit_code == 0


def test_a_bundle_of_a_newer_schema_says_how_to_read_it(refused, bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    (tmp_path / "b/manifest.json").write_text(json.dumps({**manifest, "schema": "3.0"}))
    refused("verify", "b", says=("3.0", "pip install -U tokexport"))


def test_a_failed_request_leaves_an_older_bundle_untouched(refused, bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    file = plain(tmp_path / "m.onnx")
    refused("model", file, "--method", "apet", "--keep", "3", "--seam", "tensor:features", "-o", "b", says=("basis",))


def test_running_a_bundle_that_does_not_say_how_a_picture_becomes_its_input(refused, bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    refused("run", "b", "--image", "x.png", "--prompt", "hello ?", says=("does not say how a picture", "array"))


def test_a_limit_on_the_size_of_files_is_no_full_disk_and_leaves_nothing_behind(tmp_path):
    """The kernel refuses the write in the same place as on a full disk (test_writer), and for another reason."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        "sys.argv = ['tokexport', 'model', '--method', 'uniform', '--keep', '9', '-o', 'out']; "
        "from tokexport.exporter.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "no file larger than 200 kB" in done.stderr and "ulimit -f unlimited" in done.stderr
    assert "disk is full" not in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["inserting apet", "exporting prefill", "answering 512 questions"])
def test_ctrl_c_in_the_middle_leaves_the_old_bundle(bundle, tmp_path, step):
    shutil.copytree(bundle, tmp_path / "out")
    before = snapshot(tmp_path)
    command = [TOKEXPORT, "model", "--method", "apet", "--ratio", "0.85", "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = iter(process.stderr)
    while step not in next(said):
        pass
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert snapshot(tmp_path) == before and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("prompt", ["", " \t"])
def test_an_empty_prompt(refused, bundle, prompt):
    refused("run", bundle, "--image", "i.png", "--prompt", prompt, says=("the prompt is empty", "--prompt"))
