"""A folder that no family reads: the error names its ONNX file, and prints a module that can be exported as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_checkpoints
from bad_input import plain
from click.testing import CliRunner
from tokexport.exporter.cli import main


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT, which is in transformers and has no family here: CLS and 4 x 4 patches."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vit = transformers.ViTMSNModel(transformers.ViTMSNConfig(**sizes, image_size=56, patch_size=14))
    tiny_checkpoints.enliven(vit)
    folder = tmp_path_factory.mktemp("checkpoints") / "vit"
    vit.save_pretrained(folder)
    return folder


def test_the_printed_lines_are_a_module_that_exports(vit_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(main, ["model", str(vit_folder), "--method", "topk", "--ratio", "0.5"])
    assert refused.exit_code == 2 and refused.stderr.splitlines()[-1].startswith("error: ")
    assert "save them as mine.py and run tokexport model mine:tower" in refused.stderr
    Path("mine.py").write_text(refused.stdout)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = CliRunner().invoke(main, ["model", "mine:tower", "--method", "topk", "--ratio", "0.5", "-o", "b", "--json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert all(check["ok"] for check in data["proof"]["checks"])
    assert (data["compression"][0]["tokens_in"], data["compression"][0]["seam"]["prefix"]) == (16, 1)


def test_an_onnx_file_in_an_unknown_folder_is_named(refused, tmp_path):
    (tmp_path / "m/onnx").mkdir(parents=True)
    (tmp_path / "m/config.json").write_text(json.dumps({"architectures": ["NewModel"]}))
    plain(tmp_path / "m/onnx/decoder.onnx")
    plain(tmp_path / "m/onnx/vision_encoder.onnx")
    said = "holds onnx/vision_encoder.onnx, onnx/decoder.onnx: tokexport model m/onnx/vision_encoder.onnx ..."
    refused("model", "m", "--method", "apet", "--ratio", "0.5", says=("NewModel", said))


def test_a_folder_with_an_onnx_file_and_no_config(refused, tmp_path):
    (tmp_path / "m").mkdir()
    plain(tmp_path / "m/encoder.onnx")
    said = ("no config.json", "The folder holds encoder.onnx: tokexport model m/encoder.onnx ...")
    refused("model", "m", "--method", "apet", "--ratio", "0.5", says=said)
