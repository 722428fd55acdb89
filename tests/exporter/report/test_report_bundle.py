"""Every bundle carries its report: whoever made the model, proved or not; a picture of its own can be drawn from it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser
from tokexport.exporter.cli import main
from tokexport.exporter.pipeline import export
from tokexport.exporter.report import page
from tokexport.runtimes.bundle.reader import open_bundle, verify_hashes

# Patches of 2 x 2 pixels become tokens [1, 16, 12]; nothing says how pixel values were made.
IMAGE = """<ir_version: 10, opset_import: ["" : 18]>
toy (float[1,3,8,8] pixels) => (float[1,16,4] y)
<float[12,4] w, int64[6] split = {1, 3, 4, 2, 4, 2}, int64[3] flat = {1, 16, 12}>
{ a = Reshape (pixels, split)
  b = Transpose <perm = [0, 2, 4, 1, 3, 5]> (a)
  features = Reshape (b, flat)
  y = MatMul (features, w) }"""


def toy(path: Path) -> Path:
    model = parser.parse_model(IMAGE)
    weight = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    for i, node in enumerate(model.graph.node):
        node.name = f"node_{i}_{node.op_type}"
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("features", 1, [1, 16, 12]))
    onnx.save(model, path)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    export(
        str(toy(tmp_path / "toy.onnx")),
        tmp_path / "out",
        method="kcenter_merge",
        keep=5,
        seam="tensor:features",
        verify=False,
    )
    return tmp_path / "out"


def test_a_foreign_file_that_was_not_verified_has_its_report(bundle: Path):
    opened = open_bundle(bundle)
    assert page.FILE in opened.manifest.files and verify_hashes(opened)
    text = opened.file(page.FILE).read_text(encoding="utf-8")
    assert "NOT VERIFIED" in text and "16 tokens become 5, 11 merged" in text
    assert "scaled from least to largest" in text
    assert "tokexport model toy.onnx --method kcenter_merge --keep 5 --seam tensor:features" in text
    assert str(bundle.parent) not in text


def test_without_jinja2_a_note_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    made = export(
        str(toy(tmp_path / "toy.onnx")),
        tmp_path / "out",
        method="uniform",
        keep=5,
        seam="tensor:features",
        verify=False,
    )
    assert any("report.html was not written" in note and "pip install" in note for note in made.notes)
    assert page.FILE not in open_bundle(tmp_path / "out").manifest.files


def test_bf16_without_a_proof_says_why_there_is_no_picture(tmp_path: Path):
    how = {"method": "uniform", "keep": 5, "seam": "tensor:features", "precision": "bf16", "verify": False}
    export(str(toy(tmp_path / "toy.onnx")), tmp_path / "out", **how)  # type: ignore[arg-type]
    assert "No picture: ONNX Runtime&#39;s CPU cannot run bf16" in (tmp_path / "out" / page.FILE).read_text()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle of tiny-vlm, kcenter_merge, and a scene."""
    pytest.importorskip("torch")
    from tokexport.exporter.zoo.tiny_vlm.scenes import scene

    folder = tmp_path_factory.mktemp("picture")
    (folder / "scene.png").write_bytes(scene(np.random.default_rng(0)).to_png())
    export("tiny-vlm", folder / "bundle", method="kcenter_merge", keep=21, parts="encoder", verify=False)
    return folder


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["show", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_several_bundles_stand_beside_each_other_in_one_svg(drawn: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(drawn)
    run("bundle", "bundle", "--image", "scene.png", "-o", "two.svg")
    text = (drawn / "two.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert [one.text for one in root.findall("{*}text")] == [
        "Input", "144 tokens", "kcenter_merge", "21 of 144 tokens", "kcenter_merge", "21 of 144 tokens",
    ]  # fmt: skip
    ids = re.findall(r"id='([^']+)'", text)
    assert sorted(ids) == sorted(set(ids)) and set(re.findall(r"href='#([^']+)'", text)) == set(ids)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_one_bundle_also_shows_what_is_left(drawn: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(drawn)
    run("bundle", "--image", "scene.png", "-o", "one.svg")
    assert "What is left" in (drawn / "one.svg").read_text(encoding="utf-8")


def test_a_picture_of_nothing_says_what_is_wrong(drawn: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(drawn)
    assert "no image nowhere.png" in run("bundle", "--image", "nowhere.png", "-o", "x.svg", code=2)
    assert "does not exist" in run("no-bundle", "--image", "scene.png", "-o", "x.svg", code=2)
    assert "does not say how" in run(str(bundle), "--image", "scene.png", "-o", "x.svg", code=2)
    assert not (drawn / "x.svg").exists()
