"""Recipes on the command line: every step proved, the bundle about the tokens of the first, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main
from tokexport.exporter.proof import probes
from tokexport.exporter.proof.parity import check
from tokexport.exporter.zoo.tiny_vlm.scenes import scene
from tokexport.graph_passes.ir_tools.model_io import load_model
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.load import load
from tokexport.runtimes.ort.graph import ort_runner

# Two merges inside the encoder, and two selections at its end, where the second reads gathered signals.
MINE = """
summary = "four steps"
[[steps]]
method = "kcenter_merge"
seam = "encoder_layer:1/4"
ratio = "1/3"
[[steps]]
method = "kcenter_merge"
seam = "encoder_layer:3/4"
ratio = "1/2"
[[steps]]
method = "cls_topk"
seam = "encoder_output"
ratio = "1/4"
[[steps]]
method = "visionzip"
seam = "encoder_output"
ratio = "1/3"
"""


def tokexport(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """The folder with a recipe of one's own, what the command said, and its bundle."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "mine.toml").write_text(MINE)
    how = ("--recipe", folder / "mine.toml", "--parts", "encoder", "-o", folder / "b", "--json")
    said = tokexport("model", *how)
    (folder / "said.json").write_text(said)
    return folder


def test_every_step_is_proved_with_the_tokens_that_reach_it(mine: Path) -> None:
    data = json.loads((mine / "said.json").read_text())
    assert [(one["tokens_in"], one["tokens_out"]) for one in data["compression"]] == [
        (144, 96),
        (96, 48),
        (48, 36),
        (36, 24),
    ]
    assert [one["size_bias"] for one in data["compression"]] == [True, True, False, False]
    checks = data["proof"]["checks"]
    assert all(check["ok"] for check in checks)
    assert {check["part"] for check in checks} == {"head", "compressor", "between", "sequence", "tail"}
    assert sum(check["part"] == "compressor" for check in checks) == 4
    # Attention and keys for the last step: read once, gathered once.
    gathered = [check["tensor"] for check in checks if check["part"] == "sequence" and "cls_topk." in check["tensor"]]
    assert {name.rsplit(".", 1)[1] for name in gathered} >= {"cls_attention", "keys"}
    assert data["drift"]["kept_overlap"] == 1.0 and data["variant"] == "mine"


def test_the_bundle_is_about_the_tokens_of_the_first_step(mine: Path) -> None:
    (variant,) = open_bundle(mine / "b").manifest.variants
    assert variant.name == "mine" and [one.method for one in variant.compression][2:] == ["cls_topk", "visionzip"]
    session = load(mine / "b")
    pixels = np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)
    found = session.encode(pixels)
    assert found["tokens"].shape[1] == 24 and found["assignment"].shape == (1, 144)
    assert found["kept_indices"].max() < 144 and found["sizes"].sum() == (found["assignment"] >= 0).sum()
    for slot in range(24):
        assert found["sizes"][0, slot] == (found["assignment"][0] == slot).sum()
    page = (mine / "b/report.html").read_text()
    assert "mine" in page and "4. Method" in page and "144 → 96 → 48 → 36 → 24" in page and "mine.toml" in page


def test_it_is_verified_again_in_every_part(mine: Path) -> None:
    said = json.loads(tokexport("verify", mine / "b", "--json"))
    assert said["ok"] and {check["part"] for check in said["checks"]} >= {"between", "sequence"}


def named(model: ir.Model, value: str) -> ir.Node:
    return next(node for node in model.graph if any(output.name == value for output in node.outputs))


def test_what_is_wrong_between_steps_fails_where_it_is_wrong(mine: Path) -> None:
    """Positions turned, keys of other slots, and a bias that is no logarithm."""
    model = load_model(mine / "b/encoder.onnx")
    node = named(model, "kept_indices")
    model.graph.insert_after(node, turned := ir.node("Neg", [node.outputs[0]]))
    node.outputs[0].name, turned.outputs[0].name = "composed", "kept_indices"
    turned.outputs[0].type, turned.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    model.graph.outputs[[out.name for out in model.graph.outputs].index("composed")] = turned.outputs[0]

    (node,) = [node for node in model.graph if node.op_type == "GatherND"]
    first = ir.Value(name="first", const_value=ir.tensor(np.arange(36).reshape(1, 36, 1), name="first"))
    model.graph.register_initializer(first)
    node.replace_input_with(1, first)

    (node,) = [node for node in model.graph if node.op_type == "Log" and ".composed." in (node.inputs[0].name or "")]
    node.op_type = "Neg"

    once = {(probe.part, *probe.inputs): probe for probe in probes.load(mine / "b/proof.npz")}
    checks = check(list(once.values()), {"encoder": model}, ort_runner, "fp32")
    wrong = {(one.part, one.tensor.rsplit(".", 1)[-1]) for one in checks if not one.ok}
    assert {("sequence", "kept_indices"), ("sequence", "keys")} <= wrong
    assert {part for part, _ in wrong} == {"sequence", "between"}
    assert ("sequence", "sizes") not in wrong and ("sequence", "cls_attention") not in wrong


def test_a_recipe_of_a_paper_on_a_smaller_model_answers(tmp_path: Path) -> None:
    """Made for 576 tokens and 23 layers, here 144 and 4: shares scale, and the language graphs take what is left."""
    said = tokexport("model", "--recipe", "vscan", "--no-verify", "-o", tmp_path / "b")
    assert "holov at encoder_layer:0" in said and "144 -> 72" in said
    assert "visionzip at encoder_output" in said and "72 -> 24" in said
    (variant,) = open_bundle(tmp_path / "b").manifest.variants
    assert variant.generation is not None
    assert (variant.generation.tokens_in, variant.generation.image_span[1]) == (144, 24)
    (tmp_path / "scene.png").write_bytes(scene(np.random.default_rng(5)).to_png())
    ask = ("--image", tmp_path / "scene.png", "--prompt", "what colour is the circle ?")
    assert tokexport("run", tmp_path / "b", *ask).strip()


TOY = """<ir_version: 10, opset_import: ["" : 18]> toy (float[1,24,16] x) => (float[1,24,16] y)
{ features = Tanh (x)  y = Sin (features) }"""


def test_in_a_foreign_file_the_steps_and_what_they_come_to_are_proved(tmp_path: Path) -> None:
    onnx.save(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(TOY)), tmp_path / "toy.onnx")
    step = '[[steps]]\nmethod = "kcenter_merge"\nseam = "tensor:features"\nratio = "1/2"\n'
    (tmp_path / "twice.toml").write_text(2 * step)
    how = ("--recipe", tmp_path / "twice.toml", "-o", tmp_path / "b", "--json")
    data = json.loads(tokexport("model", tmp_path / "toy.onnx", *how))
    assert {one["part"] for one in data["proof"]["checks"]} == {"compressor", "sequence"}
    assert [one["tokens_out"] for one in data["compression"]] == [12, 6]


def test_where_there_is_no_cls_it_is_set_for_the_steps_that_read_it(tiny_whisper_folder, tmp_path: Path) -> None:
    ask = ("model", tiny_whisper_folder, "--recipe", "visionzip-64", "-o", tmp_path / "b")
    assert "attention=received" in tokexport(*ask, code=2)
    assert "100 -> 11" in tokexport(*ask, "--set", "attention=received")


def test_what_a_request_gets_wrong_leaves_no_folder(refused, tmp_path: Path) -> None:
    refused("model", says=("neither --method nor --recipe",))
    refused("model", "--recipe", "vscan", "--ratio", "0.5", says=("--ratio", "with --recipe", "FILE.toml"))
    refused("model", "--recipe", "vscan", "--method", "apet", says=("--method apet", "with --recipe"))
    refused("model", "--recipe", "vscn", says=("Did you mean vscan", ".toml"))
    refused("model", "--recipe", "vscan", "--set", "3.attention=cls", says=("no parameter '3.attention'", "1.crops"))
    refused("model", "--recipe", "nowhere.toml", says=("cannot be read", "nowhere.toml"))


def test_the_recipes_are_listed() -> None:
    said = tokexport("methods", "--recipes")
    for words in ("1. holov at encoder_layer:1/4 removes 1/2", "363.1 on average over the 23 layers", "TMLR 2026"):
        assert words in said
    listed = {row["name"]: row for row in json.loads(tokexport("methods", "--recipes", "--json"))}
    assert listed["vscan-64"]["source"]["code"] and listed["evit-blocks"]["source"]["code"]
