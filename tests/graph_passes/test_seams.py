"""Seams are found by metadata, scopes, names and structure, and resolved by name."""

from __future__ import annotations

import json

import onnx_ir as ir
import pytest
from exported_models import Toy, by_name, exported, stripped
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.seams.find import describe, find_seams, refresh_seams, resolve, write_seams
from tokexport.graph_passes.seams.seam import METADATA_KEY

NAMES = ["encoder_layer:0", "encoder_layer:1", "encoder_output", "projector_input", "projector_output"]


def test_scopes_of_llava() -> None:
    seams = by_name(exported("llava"))
    # hidden_states[-2] leaves the third layer out of the graph.
    assert list(seams) == NAMES
    output = seams["encoder_output"]
    assert (output.batch, output.prefix, output.tokens, output.dim, output.grid) == (1, 1, 16, 32, (4, 4))
    assert (output.found_by, output.module, output.side) == ("scopes", "vision_tower.encoder.layers.1", "output")
    assert output.tensor == seams["encoder_layer:1"].tensor
    entry = seams["projector_input"]
    assert (entry.prefix, entry.tokens, entry.module, entry.side) == (0, 16, "multi_modal_projector", "input")
    end = seams["projector_output"]
    assert (end.dim, end.module, end.side) == (40, "multi_modal_projector", "output")
    assert all(
        seam.valid and set(seam.signals) == {"cls_attention", "keys", "received_attention"} for seam in seams.values()
    )


def test_where_all_tokens_are_known_none_is_a_prefix() -> None:
    seams = {seam.name: seam for seam in write_seams(exported("llava"), known=17)}
    assert (seams["encoder_output"].prefix, seams["encoder_output"].tokens) == (0, 17)
    assert (seams["projector_input"].prefix, seams["projector_input"].tokens) == (0, 16)


@pytest.mark.parametrize("opset", [18, 23])
def test_scopes_of_whisper_end_at_the_final_norm(opset: int) -> None:
    seams = by_name(exported("whisper", opset))
    assert list(seams) == NAMES[:3]
    output = seams["encoder_output"]
    assert (output.prefix, output.tokens, output.grid, output.module) == (0, 50, (50,), "layer_norm")
    # There is no CLS token, so nothing pays attention as one.
    assert set(output.signals) == {"keys", "received_attention"}


@pytest.mark.parametrize("kind", ["llava", "whisper"])
def test_torchscript_names_agree_with_scopes(kind: str) -> None:
    named = by_name(exported(kind, 17, attention="eager", dynamo=False))
    scoped = by_name(exported(kind, attention="eager"))
    assert list(named) == list(scoped)
    for name, seam in scoped.items():
        other = named[name]
        assert other.found_by == "names"
        assert (other.tokens, other.prefix, other.grid, other.module) == (
            seam.tokens,
            seam.prefix,
            seam.grid,
            seam.module,
        )


@pytest.mark.parametrize(("opset", "dynamo"), [(18, True), (23, True), (17, False)])
@pytest.mark.parametrize("kind", ["llava", "whisper"])
def test_structure_agrees_with_scopes(kind: str, opset: int, dynamo: bool) -> None:
    attention = "sdpa" if dynamo else "eager"
    scoped = by_name(exported(kind, opset, attention=attention, dynamo=dynamo))
    model = exported(kind, opset, attention=attention, dynamo=dynamo)
    position = {value.name: i for i, node in enumerate(model.graph) for value in node.outputs}
    bare = stripped(model)
    found = by_name(bare)
    again = {value.name: i for i, node in enumerate(bare.graph) for value in node.outputs}
    assert list(found) == [name for name in scoped if not name.startswith("encoder_layer")]
    for name, seam in found.items():
        assert seam.found_by == "structure"
        assert again[seam.tensor] == position[scoped[name].tensor]
        assert (seam.tokens, seam.prefix, set(seam.signals)) == (
            scoped[name].tokens,
            scoped[name].prefix,
            set(scoped[name].signals),
        )


def test_tiny_vlm_by_scopes() -> None:
    torch = pytest.importorskip("torch")
    from tokexport.exporter.zoo.tiny_vlm.model import Encoder, TinyVLM, TinyVLMConfig

    torch.manual_seed(0)
    encoder = Encoder(TinyVLM(TinyVLMConfig(image=32, grid=(4, 4), vision_layers=2))).eval()
    program = torch.onnx.export(encoder, (torch.randn(1, 3, 32, 32),), dynamo=True, opset_version=18, verbose=False)
    seams = by_name(program.model)
    assert list(seams) == NAMES
    output, entry = seams["encoder_output"], seams["projector_input"]
    assert (output.prefix, output.tokens, output.grid, output.module) == (1, 16, (4, 4), "vision.layers.1")
    assert (entry.prefix, entry.module, entry.side) == (0, "projector", "input")
    assert set(entry.signals) == {"cls_attention", "keys", "received_attention"}


def test_metadata_comes_first_and_is_checked() -> None:
    model = exported("llava")
    written = write_seams(model)
    assert [seam.name for seam in written] == NAMES
    found = find_seams(stripped_metadata_of_nodes(model))
    assert [seam.found_by for seam in found] == ["metadata"] * 5
    assert found[3].module == "multi_modal_projector" and found[3].signals == written[3].signals

    stored = json.loads(model.metadata_props[METADATA_KEY])
    stored[2]["tokens"] = 25
    model.metadata_props[METADATA_KEY] = json.dumps(stored)
    with pytest.raises(GraphError, match=r"encoder_output.*\[1, 26, 32\].*\[1, 17, 32\]"):
        find_seams(model)
    refresh_seams(model)
    assert [seam.name for seam in find_seams(model)] == [name for name in NAMES if name != "encoder_output"]

    stored[2]["tensor"] = "gone"
    model.metadata_props[METADATA_KEY] = json.dumps(stored)
    with pytest.raises(GraphError, match="'gone'"):
        find_seams(model)
    # `inspect` shows the file all the same, and says so.
    report = describe(model)
    assert "gone" in report["notes"][0]
    assert {row["found_by"] for row in report["seams"]} == {"structure"}
    model.metadata_props[METADATA_KEY] = "{"
    with pytest.raises(GraphError, match="cannot be read"):
        find_seams(model)


def test_a_seam_upstream_of_a_compressor_is_no_longer_valid() -> None:
    model = exported("llava")
    write_seams(model)
    (read,) = [node for node in model.graph if node.op_type == "Slice"]
    node = ir.node("TokexportToy", [read.inputs[0]], domain="tokexport", name="compressor")
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].dtype = (
        "short",
        ir.Shape([1, 7, 32]),
        ir.DataType.FLOAT,
    )
    model.graph.insert_before(read, node)
    read.replace_input_with(0, node.outputs[0])
    read.outputs[0].shape = ir.Shape([1, 6, 32])
    refresh_seams(model)
    seams = by_name(model)
    assert "projector_input" not in seams and not seams["encoder_output"].valid
    with pytest.raises(RequestError, match="'compressor'"):
        resolve(model, "encoder_output")


def stripped_metadata_of_nodes(model: ir.Model) -> ir.Model:
    for node in model.graph:
        node.metadata_props.clear()
        node.name = None
    return model


def test_nothing_is_written_where_nothing_was_found() -> None:
    toy = Toy()
    x = toy.input("x", 1, 4, 8)
    model = toy.output(toy.op("Relu", x))
    assert write_seams(model) == [] and METADATA_KEY not in model.metadata_props


def test_unknown_seam_lists_those_that_exist() -> None:
    model = exported("whisper")
    with pytest.raises(RequestError, match=r"projector_input.*encoder_layer:0.*encoder_output"):
        resolve(model, "projector_input")
    assert resolve(model, "auto", "projector_input").name == "encoder_output"
    with pytest.raises(RequestError, match="decoder_layer:2"):
        resolve(model, "auto", "decoder_layer:2")


def test_any_tensor_by_name() -> None:
    model = exported("llava")
    entry = by_name(model)["projector_input"]
    seam = resolve(model, f"tensor:{entry.tensor}")
    assert (seam.name, seam.found_by, seam.tokens, seam.grid) == (f"tensor:{entry.tensor}", "user", 16, (4, 4))
    assert seam.signals == entry.signals
    with pytest.raises(RequestError, match=r"'slice_7'.*slice_1"):
        resolve(model, "tensor:slice_7")
    with pytest.raises(GraphError, match="rank is 4"):
        resolve(model, "tensor:conv2d")


def test_a_dynamic_token_axis_is_refused_with_the_command() -> None:
    toy = Toy()
    x = toy.block(toy.op("Relu", toy.input("tokens", 1, "n", 8)), 8, 2)
    model = toy.output(toy.op("MatMul", x, toy.weight(8, 6)))
    seam = by_name(model)["encoder_output"]
    assert not seam.valid and seam.tokens == 0
    with pytest.raises(GraphError, match=r"dynamic.*--input-shape tokens=1,3000,8"):
        resolve(model)


def test_report_has_one_row_for_each_seam_and_the_facts_of_the_graph() -> None:
    report = describe(exported("llava", 23))
    assert [row["seam"] for row in report["seams"]] == NAMES
    assert report["seams"][2]["signals"] == ["cls_attention", "keys", "received_attention"] and report["seams"][2][
        "grid"
    ] == [4, 4]
    assert report["opset"] == 23 and report["precision"]["float32"] > 0.9
    assert report["inputs"] == [{"name": "pixel_values", "dtype": "float32", "shape": [1, 3, 56, 56]}]
    assert report["compressors"] == [] and report["nodes"] > 20
    json.dumps(report)
