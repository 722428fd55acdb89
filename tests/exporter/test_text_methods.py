"""Methods that read text, through the command line: exported and proved with an encoder, refused where no text is."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main
from tokexport.exporter.texts import with_text
from tokexport.graph_passes.model_io import load_model


def command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def model(*arguments):
    result = command("model", *arguments, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert all(check["ok"] for check in data["proof"]["checks"])
    return data, {check["part"] for check in data["proof"]["checks"]}


def test_a_foreign_encoder_gets_a_text(tiny_vlm_encoder_onnx, tmp_path):
    asked = ("--method", "cdpruner", "--ratio", "0.85", "--set", "text_length=32", "--precision", "fp16")
    _, parts = model(tiny_vlm_encoder_onnx, *asked, "-o", tmp_path / "b")
    assert parts == {"compressor"}
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    inputs = manifest["variants"][0]["graphs"]["encoder"]["inputs"]
    assert list(inputs) == ["pixel_values", "text"]
    assert inputs["text"] == {"name": "text", "dtype": "float16", "shape": [1, 32, 96]}
    # The proof is stored, and holds of the files.
    assert command("verify", tmp_path / "b").exit_code == 0
    seen = command("inspect", tmp_path / "b/encoder.onnx").output
    assert "cdpruner chooses by the input 'text'" in seen

    samples = [{"pixel_values": np.zeros(1)}] * 2
    texts = [sample["text"] for sample in with_text(samples, load_model(tmp_path / "b/encoder.onnx"))]
    assert texts[0].dtype == np.float16 and texts[0].shape == (1, 32, 96) and not np.array_equal(*texts)
    assert (texts[0] != 0).any(2).tolist() == [[True] * 24 + [False] * 8]
    assert "text" not in samples[0]


@pytest.mark.parametrize(("source", "method"), [("tiny-vlm", "cdpruner"), ("tiny-asr", "speechprune")])
def test_with_language_graphs_it_is_refused(source, method, tmp_path):
    result = command("model", source, "--method", method, "--ratio", "0.85", "-o", tmp_path / "b")
    assert result.exit_code == 2 and "reads a text" in result.output and "--parts encoder" in result.output
    assert not (tmp_path / "b").exists()


def test_a_sweep_has_no_text(tmp_path):
    result = command("sweep", "tiny-vlm", "--method", "cdpruner", "-o", tmp_path / "s")
    assert result.exit_code == 2 and "cdpruner reads a text, and a sweep has none to give" in result.output
    assert not (tmp_path / "s").exists()


def test_methods_says_what_cannot_be_cached():
    rows = {row["name"]: row for row in json.loads(command("methods", "--json").output)}
    assert not rows["cdpruner"]["cacheable"] and rows["cdpruner"]["signals"] == ["text"]
    assert rows["adafv"]["signals"] == ["cls_attention", "text"]
    assert rows["scope"]["cacheable"]
    assert "every turn of a dialogue" in command("methods").output
