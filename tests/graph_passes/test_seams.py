"""Seams are found by metadata, scopes, names and structure, and nothing is claimed that the graph does not prove."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, exported, stripped
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.seam import METADATA_KEY, Seam
from tokexport.graph_passes.seams import describe, find_seams, refresh_seams, resolve, write_seams

NAMES = ["encoder_layer:0", "encoder_layer:1", "encoder_output", "projector_input", "projector_output"]


def by_name(model: ir.Model) -> dict[str, Seam]:
    return {seam.name: seam for seam in find_seams(model)}


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
    assert all(seam.valid and set(seam.signals) == {"cls_attention", "keys"} for seam in seams.values())


@pytest.mark.parametrize("opset", [18, 23])
def test_scopes_of_whisper_end_at_the_final_norm(opset: int) -> None:
    seams = by_name(exported("whisper", opset))
    assert list(seams) == NAMES[:3]
    output = seams["encoder_output"]
    assert (output.prefix, output.tokens, output.grid, output.module) == (0, 50, (50,), "layer_norm")
    # There is no CLS token, so nothing pays attention as one.
    assert set(output.signals) == {"keys"}


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
    assert set(entry.signals) == {"cls_attention", "keys"}


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


def test_a_seam_in_front_of_a_compressor_is_not_valid_any_more() -> None:
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


def merged_tower(*, grid: bool = True, merge: bool = True) -> ir.Model:
    """Two blocks, then a pixel shuffle that joins 2 x 2 patches, then a projector: as InternVL has it."""
    toy = Toy()
    if grid:
        tokens = toy.patches(toy.input("pixels", 1, 3, 16, 16), 8, 4)
    else:
        tokens = toy.op("Relu", toy.input("tokens", 1, 16, 8))
    for _ in range(2):
        tokens = toy.block(tokens, 8, 2)
    if merge:
        tokens = toy.op("Reshape", tokens, toy.const([0, 2, 2, 2, 2, 8]), name="split")
        tokens = toy.op("Transpose", tokens, perm=[0, 1, 3, 2, 4, 5])
        tokens = toy.op("Reshape", tokens, toy.const([0, 4, 32]), name="merged")
    scale, bias = toy.weight(32 if merge else 8), toy.weight(32 if merge else 8)
    normed = toy.op("LayerNormalization", tokens, scale, bias, axis=-1)
    return toy.output(toy.op("MatMul", normed, toy.weight(32 if merge else 8, 6), name="projected"))


def test_a_merger_makes_the_encoder_output_invalid_and_auto_goes_behind_it() -> None:
    model = merged_tower()
    seams = by_name(model)
    output, entry = seams["encoder_output"], seams["projector_input"]
    assert not output.valid and "Reshape" in output.why
    # Before the norm: the place right behind the last operation that moves tokens.
    assert (entry.tensor, entry.tokens, entry.dim, entry.grid, entry.valid) == ("merged", 4, 32, (2, 2), True)
    # The attention saw 16 tokens and these are 4, so nothing of it can be read here.
    assert entry.signals == {}
    assert resolve(model).name == "projector_input"
    assert resolve(model, "auto", "projector_output").name == "projector_output"
    with pytest.raises(RequestError, match=r"encoder_output.*Reshape.*projector_input"):
        resolve(model, "encoder_output")


def test_the_final_norm_belongs_to_the_encoder_where_it_is_the_only_user() -> None:
    seams = by_name(merged_tower(merge=False))
    assert seams["encoder_output"].tensor == seams["projector_input"].tensor
    assert seams["encoder_output"].valid


def test_no_grid_without_a_convolution_that_proves_it() -> None:
    assert by_name(merged_tower(merge=False))["encoder_output"].grid == (4, 4)
    assert by_name(merged_tower(grid=False, merge=False))["encoder_output"].grid is None


def with_prefix(*, cls_first: bool = True, registers: int = 0, drop: int | None = 1, expand: bool = False) -> ir.Model:
    toy = Toy()
    image = toy.input("pixels", "batch" if expand else 1, 3, 16, 16)
    patches = toy.patches(image, 8, 4)
    learned = [toy.weight(1, 1, 8)] + ([toy.weight(1, registers, 8)] if registers else [])
    if expand:
        batch = toy.op("Slice", toy.op("Shape", image), toy.const([0]), toy.const([1]))
        size = toy.op("Concat", batch, toy.const([1, 8]), axis=0)
        learned = [toy.op("Expand", learned[0], size)]
    x = toy.op("Concat", *([*learned, patches] if cls_first else [patches, *learned]), axis=1)
    x = toy.op("Add", x, toy.weight(1, 17 + registers, 8))
    x = toy.block(toy.block(x, 8, 2), 8, 2)
    if drop:
        big = np.iinfo(np.int64).max
        x = toy.op("Slice", x, toy.const([drop]), toy.const([big]), toy.const([1]), name="sliced")
    return toy.output(toy.op("MatMul", x, toy.weight(8, 6), name="projected"))


@pytest.mark.parametrize(("registers", "drop"), [(0, 1), (0, None), (4, 5), (4, None)])
def test_learned_tokens_in_front_are_the_prefix(registers: int, drop: int | None) -> None:
    seams = by_name(with_prefix(registers=registers, drop=drop))
    output = seams["encoder_output"]
    assert (output.prefix, output.tokens) == (1 + registers, 16)
    entry = seams["projector_input"]
    assert (entry.prefix, entry.tokens) == (0 if drop else 1 + registers, 16)
    assert entry.signals["cls_attention"].prefix == 1 + registers


def test_a_slice_may_leave_registers_and_may_take_patches() -> None:
    left = by_name(with_prefix(registers=4, drop=1))["projector_input"]
    assert (left.prefix, left.tokens, left.signals["cls_attention"].prefix) == (4, 16, 5)
    # Two patches are gone: what the attention says about 16 tokens does not fit 14.
    taken = by_name(with_prefix(registers=4, drop=7))["projector_input"]
    assert (taken.prefix, taken.tokens, taken.signals) == (0, 14, {})


def test_a_learned_token_expanded_to_a_dynamic_batch_is_a_prefix() -> None:
    output = by_name(with_prefix(expand=True))["encoder_output"]
    assert (output.batch, output.prefix, output.tokens) == (None, 1, 16)


def test_registers_put_between_cls_and_patches_are_prefix_too() -> None:
    """DINOv2 adds positions first, then rebuilds [CLS | registers | patches] from slices."""
    toy = Toy()
    x = toy.op("Concat", toy.weight(1, 1, 8), toy.patches(toy.input("pixels", 1, 3, 16, 16), 8, 4), axis=1)
    x = toy.op("Add", x, toy.weight(1, 17, 8))
    zero, one, big, axis = (toy.const([i]) for i in (0, 1, np.iinfo(np.int64).max, 1))
    cls, patches = toy.op("Slice", x, zero, one, axis), toy.op("Slice", x, one, big, axis)
    x = toy.op("Concat", cls, toy.weight(1, 4, 8), patches, axis=1)
    x = toy.block(toy.block(x, 8, 2), 8, 2)
    output = by_name(toy.output(toy.op("Identity", x)))["encoder_output"]
    assert (output.prefix, output.tokens, output.grid) == (5, 16, (4, 4))


@pytest.mark.parametrize(("index", "valid"), [(0, True), (3, False)])
def test_a_head_may_read_the_cls_token_but_no_patch_by_its_place(index: int, valid: bool) -> None:
    toy = Toy()
    x = toy.op("Concat", toy.weight(1, 1, 8), toy.op("Relu", toy.input("tokens", 1, 6, 8)), axis=1)
    picked = toy.op("Gather", toy.block(x, 8, 2), toy.const(np.array(index)), axis=1)
    output = by_name(toy.output(toy.op("MatMul", picked, toy.weight(8, 2))))["encoder_output"]
    assert output.valid is valid


def test_a_slice_behind_proves_the_prefix_alone() -> None:
    toy = Toy()
    x = toy.op("Relu", toy.input("tokens", 1, 17, 8))
    x = toy.block(x, 8, 2)
    big = np.iinfo(np.int64).max
    sliced = toy.op("Slice", x, toy.const([1]), toy.const([big]), toy.const([1]))
    output = by_name(toy.output(toy.op("MatMul", sliced, toy.weight(8, 6))))["encoder_output"]
    assert (output.prefix, output.tokens) == (1, 16)


def test_a_learned_token_behind_the_patches_is_refused() -> None:
    output = by_name(with_prefix(cls_first=False, drop=None))["encoder_output"]
    assert not output.valid and "behind the tokens" in output.why and output.prefix == 0


def test_two_towers_side_by_side_are_not_guessed() -> None:
    toy = Toy()
    x = toy.op("Relu", toy.input("tokens", 1, 16, 8))
    left, right = toy.block(x, 8, 2), toy.block(x, 8, 2)
    model = toy.output(toy.op("MatMul", toy.op("Concat", left, right, axis=2), toy.weight(16, 6)))
    assert find_seams(model) == []
    with pytest.raises(RequestError, match=r"no single longest chain.*tensor:NAME"):
        resolve(model)


def test_features_of_several_layers_cannot_be_cut_at_one_of_them() -> None:
    toy = Toy()
    first = toy.block(toy.op("Relu", toy.input("tokens", 1, 16, 8)), 8, 2)
    last = toy.block(first, 8, 2)
    joined = toy.op("Concat", last, first, axis=2, name="joined")
    seams = by_name(toy.output(toy.op("MatMul", joined, toy.weight(16, 6))))
    assert not seams["encoder_output"].valid and "joins" in seams["encoder_output"].why
    assert seams["projector_input"].tensor == "joined" and seams["projector_input"].valid


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
    with pytest.raises(GraphError, match=r"dynamic.*make_dynamic_shape_fixed --input_name tokens --input_shape 1,N,8"):
        resolve(model)


def test_report_has_one_row_for_each_seam_and_the_facts_of_the_graph() -> None:
    report = describe(exported("llava", 23))
    assert [row["seam"] for row in report["seams"]] == NAMES
    assert report["seams"][2]["signals"] == ["cls_attention", "keys"] and report["seams"][2]["grid"] == [4, 4]
    assert report["opset"] == 23 and report["precision"]["float32"] > 0.9
    assert report["inputs"] == [{"name": "pixel_values", "dtype": "float32", "shape": [1, 3, 56, 56]}]
    assert report["compressors"] == [] and report["nodes"] > 20
    json.dumps(report)
