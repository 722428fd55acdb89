"""No command deletes what its result is made of, whatever --force says, and foreign files are named before they go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_input import plain, snapshot
from click.testing import CliRunner
from tokexport.exporter.cli import main

TOKEXPORT = Path(sys.executable).with_name("tokexport")
HOW = ["--method", "uniform", "--keep", "3", "--seam", "tensor:features"]


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    """A folder with the export of somebody else: the graph and its data."""
    folder = tmp_path / "exp"
    folder.mkdir()
    file = plain(folder / "enc.onnx")
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="enc.data", size_threshold=0)
    return folder


def model(*arguments: object, code: int = 0, of: tuple[str, ...] = tuple(HOW)) -> str:
    """Stderr of `tokexport model -q`."""
    result = CliRunner().invoke(main, ["model", *map(str, arguments), *of, "-q"])
    assert result.exit_code == code, result.output
    return result.stderr


def test_a_checkpoint_typed_as_its_own_output_keeps_its_weights(tmp_path, tiny_llava_folder):
    shutil.copytree(tiny_llava_folder, tmp_path / "ll2")
    before = snapshot(tmp_path)
    command = [TOKEXPORT, "model", "ll2", "--method", "apet", "--ratio", "0.5", "-o", "ll2", "--force"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "ll2/" not in done.stdout, done.stdout + done.stderr
    assert "delete what it is made of: ll2" in done.stderr and "Name another one with -o" in done.stderr
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("force", [["--force"], []])
@pytest.mark.parametrize("source", ["exp/enc.onnx", "./other/../exp/enc.onnx"])
def test_an_onnx_file_in_the_output(refused, exp, source, force):
    (exp.parent / "other").mkdir()
    said = refused("model", source, *HOW, "-o", "exp", *force, says=("enc.onnx", "made of"))
    assert "add --force" not in said


def link_to_the_file(exp):
    plain(exp / "enc.onnx")
    (exp.parent / "mine.onnx").symlink_to("exp/enc.onnx")
    return "mine.onnx", "exp"


def link_in_the_output(exp):
    exp.rename(exp.parent / "data")
    exp.mkdir()
    (exp / "link").symlink_to("../data")
    return "exp/link/enc.onnx", "exp"


def link_to_the_output(exp):
    (exp.parent / "link").symlink_to("exp")
    return "exp/enc.onnx", "link"


def links_in_a_row(exp):
    (exp.parent / "mine").mkdir()
    (exp.parent / "mine/second").symlink_to("../exp")
    (exp.parent / "first").symlink_to("mine/second")
    return "first/enc.onnx", "mine"


def hard_link(exp):
    plain(exp / "enc.onnx")
    os.link(exp / "enc.onnx", exp.parent / "mine.onnx")
    return "mine.onnx", "exp"


def its_data_alone(exp):
    (exp / "data").mkdir()
    onnx.save(
        onnx.load(exp / "enc.onnx"),
        exp / "enc.onnx",
        save_as_external_data=True,
        location="data/enc.w",
        size_threshold=0,
    )
    return "exp/enc.onnx", "exp/data"


def failed_result(exp):
    exp.rename(exp.parent / "out.failed")
    return "out.failed/enc.onnx", "out"


def folder_of_the_folder(exp):
    (exp.parent / "all").mkdir()
    exp.rename(exp.parent / "all/exp")
    return "all/exp/enc.onnx", "all"


@pytest.mark.parametrize(
    "arrange",
    [
        link_to_the_file,
        link_in_the_output,
        link_to_the_output,
        links_in_a_row,
        hard_link,
        its_data_alone,
        failed_result,
        folder_of_the_folder,
    ],
    ids=lambda arrange: arrange.__name__,
)
def test_an_onnx_file_in_the_output_under_another_name(refused, exp, arrange):
    source, out = arrange(exp)
    refused("model", source, *HOW, "-o", out, "--force", says=("made of", "Name another one with -o"))


def test_a_graph_of_a_bundle_that_it_would_replace(refused, exp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model("exp/enc.onnx", "-o", "toy")
    refused("model", "toy/encoder.onnx", *HOW, "-o", "toy", says=("made of", "encoder.onnx"))


def test_a_recipe_in_the_output(refused, exp, tmp_path):
    (tmp_path / "mine").mkdir()
    steps = '[[steps]]\nmethod = "uniform"\nseam = "tensor:features"\nkeep = 3\n'
    (tmp_path / "mine/r.toml").write_text(steps)
    refused("model", "exp/enc.onnx", "--recipe", "mine/r.toml", "-o", "mine", "--force", says=("mine/r.toml",))


def test_weights_of_a_compressor_in_the_output(refused, exp, tmp_path):
    (tmp_path / "mine").mkdir()
    np.savez(tmp_path / "mine/w.npz", a=np.zeros(1))
    how = ["--method", "tokenlearner", "--keep", "3", "--seam", "tensor:features", "--set", "weights=mine/w.npz"]
    refused("model", "exp/enc.onnx", *how, "-o", "mine", "--force", says=("made of", "mine/w.npz"))


def test_a_module_and_what_it_imports_in_the_output(refused, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    for folder in ("force_a", "force_b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "force_a/parts.py").write_text("import torch\nlayer = torch.nn.Linear(8, 4)\n")
    (tmp_path / "force_b/enc.py").write_text(
        "import torch\nfrom force_a.parts import layer\ndef make():\n    return layer, torch.zeros(1, 12, 8)\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for folder, file in (("force_a", "parts.py"), ("force_b", "enc.py")):
        refused("model", "force_b.enc:make", *HOW, "-o", folder, "--force", says=("made of", f"{folder}/{file}"))


def test_a_bundle_may_lie_in_the_checkpoint_folder_and_be_replaced_there(tmp_path, tiny_llava_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(tiny_llava_folder, tmp_path / "ll2")
    before = snapshot(folder)
    how = ("--method", "uniform", "--keep", "9", "--no-verify", "--parts", "encoder")
    for _ in range(2):
        model("ll2", "-o", "ll2/small", of=how)
    assert (folder / "small/manifest.json").is_file()
    assert {name: content for name, content in snapshot(folder).items() if not name.startswith("small/")} == before
    (folder / "small/notes.txt").touch()
    said = model("ll2", "-o", "ll2/small", "--force", of=how, code=2)
    assert "made of" in said and "small/notes.txt" in said and (folder / "small/notes.txt").exists()


@pytest.mark.parametrize(("options", "all_of_them"), [([], False), (["-v"], True)])
def test_foreign_files_are_named_and_deleted(exp, tmp_path, monkeypatch, options, all_of_them):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "mine").mkdir()
    for i in range(11):
        (tmp_path / f"mine/note{i:02}.txt").touch()
    (tmp_path / "mine/photos").symlink_to("../data")
    said = model("exp/enc.onnx", "-o", "mine", "--force", *options)
    assert "deletes 12 files" in said and "note09.txt" in said and said.count("note00.txt") == 1
    assert ("note10.txt, photos" in said) == all_of_them and ("and 2 more" in said) != all_of_them
    assert not (tmp_path / "mine/note00.txt").exists() and (tmp_path / "data").is_dir()


def test_without_foreign_files_force_says_nothing(exp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert model("exp/enc.onnx", "-o", "toy", "--force") == ""


def test_force_says_in_its_help_that_everything_goes():
    said = " ".join(CliRunner().invoke(main, ["model", "--help"]).output.split())
    assert "ALL it holds is deleted" in said


def sweep(*arguments: object) -> list[str]:
    return ["sweep", "exp/enc.onnx", "--inputs", "in", "--method", "uniform", *map(str, arguments)]


def test_a_sweep_replaces_no_file_of_somebody_else(refused, exp, tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/a.npy", np.zeros((1, 12, 8), np.float32))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/sweep.png").write_bytes(b"a holiday")
    refused(*sweep("-o", "in"), says=("--inputs", "-o NAME"))
    refused(*sweep("-o", "mine"), says=("sweep.png", "another folder"))


@pytest.mark.parametrize("out", ["a.png", "toy/manifest.json"])
def test_a_picture_replaces_neither_its_input_nor_a_file_of_the_bundle(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()
    for file in ("toy/manifest.json", "a.png"):
        (tmp_path / file).touch()
    result = CliRunner().invoke(main, ["show", "toy", "--image", "a.png", "-o", out])
    assert result.exit_code == 2 and f"made of: {out}" in result.stderr.replace(f"{tmp_path}/", "")
