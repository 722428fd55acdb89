"""pool and pixel_unshuffle through the command line: pictures, sound, and a model with a second projector."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.opening import open_source
from tokexport.exporter.proof import torch_parts
from tokexport.exporter.proof.torch_parts import Injected
from tokexport.exporter.zoo.tiny_vlm import model as zoo
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.seams.seam import Seam


def command(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.stdout if not code else result.output


def parts(data: dict) -> set[str]:
    assert all(check["ok"] for check in data["proof"]["checks"])
    return {check["part"] for check in data["proof"]["checks"]}


@pytest.fixture(scope="module")
def unshuffled(tmp_path_factory) -> tuple[Path, dict]:
    """`tokexport model --method pixel_unshuffle --ratio 0.75`: the bundle and what the command said."""
    folder = tmp_path_factory.mktemp("unshuffled") / "b"
    with pytest.MonkeyPatch.context() as patch:
        # Enough for what is said about the accuracy.
        patch.setattr("tokexport.exporter.pipeline.QUESTIONS", 256)
        said = command("model", "--method", "pixel_unshuffle", "--ratio", "0.75", "-o", folder, "--json")
    return folder, json.loads(said)


def test_tiny_vlm_takes_its_second_projector(unshuffled):
    folder, data = unshuffled
    (done,) = data["compression"]
    assert (done["tokens_in"], done["tokens_out"], done["size_bias"]) == (144, 36, False)
    assert done["seam"]["kind"] == "projector_input"
    assert parts(data) == {"head", "compressor", "tail", "embed", "prefill", "decode"}
    assert data["accuracy"]["compressed"] > 0.97
    encoder = onnx.load(folder / "encoder.onnx")
    assert [d.dim_value for d in encoder.graph.output[0].type.tensor_type.shape.dim] == [1, 36, 96]
    # What stood in for the compressor is gone, and the weights behind it are the second projector's.
    assert not any("placeholder" in entry.value for node in encoder.graph.node for entry in node.metadata_props)
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in encoder.graph.initializer]
    wide = load_file(zoo.PROJECTOR)["0.weight"].astype(np.float32)
    assert any(array.shape == (384, 384) and np.array_equal(array, wide.T) for array in stored)


def test_its_baselines_go_through_the_first_projector(unshuffled):
    baselines = unshuffled[1]["accuracy"]["baselines"]
    assert baselines["random"]["mean"] > 0.7
    assert baselines["pool"]["keep"] == 36


def test_its_bundle_proves_itself_again(unshuffled):
    data = json.loads(command("verify", unshuffled[0], "--json"))
    assert data["ok"] and {check["part"] for check in data["checks"]} >= {"head", "compressor", "tail"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ratio", "0.85"], r"keeps 36 of 144 tokens, not 21"),
        (["--keep", "16", "--set", "r=3"], r"trained for r=2 and version=v2, not for r=3"),
        (["--keep", "36", "--set", "version=v1"], r"not for r=2 and version=v1"),
        (
            ["--keep", "36", "--seam", "projector_output"],
            r"outputs tokens of 384 channels, but the embed graph takes 96",
        ),
    ],
)
def test_what_its_projector_was_not_trained_for_is_refused(tmp_path, arguments, message):
    out = tmp_path / "b"
    said = command("model", "--method", "pixel_unshuffle", *arguments, "-o", out, code=2)
    assert message in " ".join(said.split()) and not out.exists()


def test_a_model_without_such_a_projector_is_refused(tiny_llava_folder, tmp_path):
    said = command(
        "model", tiny_llava_folder, "--method", "pixel_unshuffle", "--keep", "9", "-o", tmp_path / "b", code=2
    )
    assert "outputs 128 channels" in said and "takes 32" in said and "tiny-vlm" in said
    assert not (tmp_path / "b").exists()


def test_other_methods_take_the_first_projector():
    source = open_source("tiny-vlm")
    assert source.prepared(make("pool")) is source
    wide = source.prepared(make("pixel_unshuffle"))
    assert wide.plain is source and wide.sha256 != source.sha256
    with pytest.raises(RequestError, match="not for r=3"):
        source.prepared(make("pixel_unshuffle", {"r": 3}))


def test_pixel_unshuffle_in_half_precision(tmp_path):
    arguments = ["--method", "pixel_unshuffle", "--keep", "36", "--precision", "fp16", "--parts", "encoder"]
    data = json.loads(command("model", *arguments, "-o", tmp_path / "b", "--json"))
    assert parts(data) == {"head", "compressor", "tail"}
    encoder = onnx.load(tmp_path / "b/encoder.onnx", load_external_data=False)
    kinds = {t.data_type for t in encoder.graph.initializer if np.prod(t.dims) > 4096}
    assert kinds == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize(("mode", "precision"), [("average", "fp32"), ("bilinear", "fp32"), ("max", "fp16")])
def test_pool_of_a_picture(tmp_path, mode, precision):
    arguments = ["--method", "pool", "--ratio", "0.75", "--set", f"mode={mode}", "--precision", precision]
    data = json.loads(command("model", *arguments, "--parts", "encoder", "-o", tmp_path / "b", "--json"))
    (done,) = data["compression"]
    assert (done["tokens_in"], done["tokens_out"], done["seam"]["kind"]) == (144, 36, "projector_output")
    assert parts(data) == {"head", "compressor"}


def test_pool_of_a_sound(tiny_whisper_folder, tmp_path):
    data = json.loads(
        command("model", tiny_whisper_folder, "--method", "pool", "--ratio", "0.75", "-o", tmp_path / "b", "--json")
    )
    (done,) = data["compression"]
    assert (done["tokens_in"], done["tokens_out"], done["seam"]["grid"]) == (100, 25, [100])
    parts(data)


def test_a_count_that_pool_does_not_reach(tmp_path):
    said = command("model", "--method", "pool", "--ratio", "0.85", "-o", tmp_path / "b", code=2)
    assert "cannot keep 21 of 12x12 tokens" in said and "--keep 16 (stride 3)" in said
    assert not (tmp_path / "b").exists()


def test_a_foreign_file_of_unknown_grid_is_told_how_to_give_it(tmp_path):
    text = (
        '<ir_version: 8, opset_import: ["" : 18]> g (float[1,24,6] x) => (float[1,24,6] y) { t = Relu(x) y = Relu(t) }'
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    request = [
        "model",
        tmp_path / "m.onnx",
        "--method",
        "pool",
        "--keep",
        "6",
        "--seam",
        "tensor:t",
        "-o",
        tmp_path / "b",
    ]
    assert "--set grid=HEIGHTxWIDTH" in command(*request, code=2)
    command(*request, "--set", "grid=4x6")
    assert json.loads((tmp_path / "b/manifest.json").read_text())["variants"][0]["compression"][0]["tokens_out"] == 6


def test_methods_lists_both():
    rows = {row["name"]: row for row in json.loads(command("methods", "--json"))}
    assert (rows["pool"]["merges"], rows["pool"]["modalities"], rows["pool"]["seam"]) == (
        True,
        ["image", "audio"],
        "projector_output",
    )
    assert (rows["pixel_unshuffle"]["merges"], rows["pixel_unshuffle"]["modalities"]) == (False, ["image"])
    assert rows["pixel_unshuffle"]["params"] == {"r": 2, "version": "v2", "grid": None}


def test_the_tail_in_torch_is_fed_behind_the_placeholder():
    wide = zoo.WideEncoder(zoo.TinyVLM(), zoo.wide_projector(zoo.TinyVLMConfig())).eval()
    seam = Seam("projector_input", "t", 144, 96, module=zoo.WideEncoder.PLACEHOLDER, side="input", placeholder="wide")
    pixels = {"pixel_values": torch.rand(1, 3, 96, 96)}
    found = torch_parts.head(wide, pixels, seam, ())
    assert torch.allclose(found.tokens, wide.vision(pixels["pixel_values"])[:, 1:], atol=1e-6)
    slots = torch.rand(1, 36, 384)
    (result,) = torch_parts.tail(wide, pixels, Injected(seam, slots))
    assert torch.equal(result, wide.projector(slots).detach())
