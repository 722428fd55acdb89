"""`tokexport model` on what is not built in: checkpoint folders, foreign ONNX files, a user's own module."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main


def model(source: object, out: Path, *arguments: str) -> dict:
    result = CliRunner().invoke(main, ["model", str(source), "-o", str(out), "--json", *arguments])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert all(check["ok"] for check in data["proof"]["checks"])
    return data


def parts(data: dict) -> set[str]:
    return {check["part"] for check in data["proof"]["checks"]}


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("apet", []), ("topk", []), ("kcenter_merge", ["--seam", "projector_output"]), ("topk", ["--precision", "fp16"])],
)
def test_a_llava_folder_with_its_projector(tiny_llava_folder, tmp_path, method, arguments):
    data = model(
        tiny_llava_folder, tmp_path / "b", "--method", method, "--ratio", "0.6", "--parts", "encoder", *arguments
    )
    (done,) = data["compression"]
    assert (done["tokens_in"], done["tokens_out"], done["seam"]["grid"]) == (36, 14, [6, 6])
    behind = {"tail"} if "--seam" not in arguments else set()
    assert parts(data) == {"head", "compressor"} | behind
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    outputs = manifest["variants"][0]["graphs"]["encoder"]["outputs"]
    assert outputs["tokens"]["shape"] == [1, 14, 48]
    assert manifest["preprocess"]["size"] == [84, 84] and manifest["source"]["kind"] == "checkpoint"


@pytest.mark.parametrize("method", ["apet", "kcenter_merge"])
def test_a_whisper_folder_whose_tokens_lie_on_a_line(tiny_whisper_folder, tmp_path, method):
    data = model(tiny_whisper_folder, tmp_path / "b", "--method", method, "--ratio", "0.85", "--parts", "encoder")
    (done,) = data["compression"]
    assert (done["tokens_in"], done["tokens_out"], done["seam"]["grid"]) == (100, 15, [100])
    assert any("no tail" in note for note in data["notes"]) and any("log(sizes)" in note for note in data["notes"])


def test_whisper_inside_its_encoder(tiny_whisper_folder, tmp_path):
    arguments = ("--method", "kcenter_merge", "--keep", "40", "--seam", "encoder_layer:0", "--parts", "encoder")
    data = model(tiny_whisper_folder, tmp_path / "b", *arguments)
    assert parts(data) == {"head", "compressor", "tail"} and data["compression"][0]["size_bias"]


def test_an_onnx_file_keeps_its_names_and_proves_the_compressor(tiny_llava_encoder_onnx, tmp_path):
    source = tmp_path / "vision.onnx"
    foreign = onnx.load(tiny_llava_encoder_onnx)
    del foreign.metadata_props[:]
    foreign.graph.output[0].name, old = "image_features", foreign.graph.output[0].name
    for node in foreign.graph.node:
        node.output[:] = ["image_features" if name == old else name for name in node.output]
    onnx.save(foreign, source)
    data = model(source, tmp_path / "b", "--method", "kcenter_merge", "--keep", "9")
    assert parts(data) == {"compressor"} and any("the file's own" in note for note in data["notes"])
    assert not data["compression"][0]["size_bias"]
    graph = onnx.load(tmp_path / "b/encoder.onnx", load_external_data=False).graph
    assert [value.name for value in graph.input] == [value.name for value in foreign.graph.input]
    assert [value.name for value in graph.output] == ["image_features", "kept_indices", "sizes", "assignment"]
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    record = manifest["variants"][0]["graphs"]["encoder"]["outputs"]["tokens"]
    assert record["name"] == "image_features" and record["shape"] == [1, 9, 48]


def test_a_module_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mymodel.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Tower(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        layers = [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)]\n"
        "        self.layers = nn.ModuleList(layers)\n"
        "        self.projector = nn.Linear(16, 8)\n"
        "    def forward(self, x):\n"
        "        for layer in self.layers:\n"
        "            x = layer(x)\n"
        "        return self.projector(x)\n"
        "def tower():\n"
        "    torch.manual_seed(0)\n"
        "    return Tower().eval(), {'x': torch.randn(1, 20, 16)}\n"
    )
    data = model("mymodel:tower", tmp_path / "b", "--method", "apet", "--keep", "12", "--seam", "projector_input")
    assert parts(data) == {"head", "compressor", "tail"}
    assert data["compression"][0]["tokens_in"] == 20


def test_the_default_folder_is_named_after_source_method_and_ratio(tiny_whisper_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_whisper_folder, "mini")
    result = CliRunner().invoke(main, ["model", "mini", "--method", "uniform", "--ratio", "8/9", "--no-verify"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "mini-uniform-8_9/manifest.json").is_file() and "NOT VERIFIED" in result.output
