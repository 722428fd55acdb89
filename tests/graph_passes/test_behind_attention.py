"""The seam between a layer's attention and its feed-forward: where it is, and where there is none."""

from __future__ import annotations

import re

import onnx_ir as ir
import pytest
from tokexport.errors import RequestError
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.ir_tools.walk import Walk
from tokexport.graph_passes.seams.find import find_seams, resolve
from toy_vit import N, run, toy_vit


def layered():
    """The toy tower with names of nodes as an export has them: two layers of an encoder."""
    model = toy_vit()
    for node in model.graph:
        hit = re.fullmatch(r"([a-z]+)(\d)", node.outputs[0].name)
        at = "" if hit is None or hit[0] in ("h0", "p1", "p2") else f"layers.{int(hit[2]) - (hit[1] == 'h')}/"
        inner = "ff/" if hit is not None and hit[1] in ("m", "g", "f") and at else ""
        node.name = f"/tower/{at}{inner}{node.outputs[0].name}"
    return model


def test_it_is_the_sum_behind_the_attention_with_the_signals_of_that_attention():
    model = layered()
    assert [seam.name for seam in find_seams(model)][:2] == ["encoder_layer:0", "encoder_layer:1"]
    for number in (0, 1):
        seam = resolve(model, f"encoder_attention:{number}")
        assert (seam.tensor, seam.tokens, seam.prefix, seam.dim) == (f"r{number}", N, 1, 8)
        assert seam.signals["cls_attention"].tensors == (f"probs{number}",)
        # The outermost module that reads the sum alone, from which PyTorch's side of a proof reads it.
        assert (seam.module, seam.side) == (f"tower.layers.{number}.ff", "input")


@pytest.mark.parametrize(("number", "biased"), [(0, True), (1, False)])
def test_sizes_reach_the_attention_of_later_layers_alone(number, biased):
    made = compress(layered(), "tome", keep=5, seam=f"encoder_attention:{number}")
    logits = [node.inputs[0].producer().op_type for node in made.graph if node.op_type == "Softmax"]
    assert logits == ["MatMul", "Add" if biased else "MatMul"]
    assert run(made)["out"].shape == (1, 5, 12)


def test_every_layer_has_one_and_a_share_names_one():
    steps = [node for node in compress(layered(), "tome", keep=4, seam="encoder_attention:*").graph if node.domain]
    assert [node.metadata_props["tokexport.keep"] for node in steps] == ["10", "4"]
    shared = compress(layered(), "topk", keep=4, seam="encoder_attention:1/1", params={"score": "norm"})
    (node,) = [node for node in shared.graph if node.domain == "tokexport"]
    assert "r1" in {value.name for one in Walk(shared).ancestors(node.inputs[0]) for value in one.outputs}


def test_a_feed_forward_beside_the_attention_leaves_no_place():
    model = layered()
    values = {value.name: value for node in model.graph for value in node.outputs}
    values["m1"].producer().replace_input_with(0, values["n1"])
    assert resolve(model, "encoder_attention:0").tensor == "r0"
    with pytest.raises(RequestError, match=r"layer 1 do not stand one behind the other.*encoder_layer:1"):
        resolve(model, "encoder_attention:1")


def test_where_no_layers_are_known_it_is_refused():
    with pytest.raises(RequestError, match=r"'encoder_attention:0' was not found"):
        resolve(toy_vit(), "encoder_attention:0")


def test_a_cast_in_front_of_the_feed_forward_hides_no_module():
    model = layered()
    values = {value.name: value for node in model.graph for value in node.outputs}
    reader = values["m0"].producer()
    cast = ir.node("Cast", [values["r0"]], {"to": ir.DataType.FLOAT.value}, name="/tower/layers.0/cast")
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = "cast", values["r0"].type, values["r0"].shape
    model.graph.insert_before(reader, cast)
    reader.replace_input_with(0, cast.outputs[0])
    assert resolve(model, "encoder_attention:0").module == "tower.layers.0.ff"
