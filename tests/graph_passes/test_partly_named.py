"""Tools that add or rename a few nodes leave a graph partly named: it is then found by structure, as without names."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import by_name, example, exported, run, stripped
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.ir_tools.attention import attentions
from tokexport.graph_passes.ir_tools.walk import Walk


def unnamed(model: ir.Model, nodes: list[ir.Node]) -> ir.Model:
    for node in nodes:
        node.name, node.domain = "", node.domain
        node.metadata_props.clear()
    return model


def last_layer(model: ir.Model, op: str) -> list[ir.Node]:
    """Nodes of one operator from the last attention on."""
    walk = Walk(model)
    start = walk.order[attentions(walk)[-1].node]
    return [node for node in walk.nodes[start:] if node.op_type == op]


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("op", ["Add", "MatMul", "LayerNormalization"])
def test_a_graph_without_some_of_its_names_has_the_seam_that_it_has_without_all(dynamo: bool, op: str) -> None:
    full = exported("whisper", dynamo=dynamo)
    expected = by_name(full)["encoder_output"]
    plain = by_name(stripped(exported("whisper", dynamo=dynamo)))["encoder_output"]
    model = exported("whisper", dynamo=dynamo)
    found = by_name(unnamed(model, last_layer(model, op)))["encoder_output"]
    assert (found.tokens, found.prefix, found.dim) == (plain.tokens, plain.prefix, plain.dim) == (50, 0, expected.dim)
    assert found.tensor == expected.tensor


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("kind", ["whisper", "llava"])
def test_names_that_end_anywhere_leave_the_encoder_where_it_is(kind: str, dynamo: bool) -> None:
    expected = by_name(exported(kind, dynamo=dynamo))["encoder_output"]
    for start in range(0, len(list(exported(kind, dynamo=dynamo).graph)), 3):
        model = exported(kind, dynamo=dynamo)
        unnamed(model, list(model.graph)[start:])
        found = by_name(model)["encoder_output"]
        assert (start, found.tensor, found.valid) == (start, expected.tensor, True)


@pytest.mark.parametrize("dynamo", [True, False])
def test_a_gap_in_the_names_moves_no_layer_and_no_projector(dynamo: bool) -> None:
    whole = {name: seam.tensor for name, seam in by_name(exported("llava", dynamo=dynamo)).items()}
    for start in range(0, len(list(exported("llava", dynamo=dynamo).graph)), 3):
        model = exported("llava", dynamo=dynamo)
        unnamed(model, list(model.graph)[start : start + 12])
        found = {name: seam.tensor for name, seam in by_name(model).items()}
        assert found.items() <= whole.items(), start
        assert "encoder_output" in found, start


def test_what_is_found_there_is_what_is_compressed() -> None:
    model = exported("whisper", dynamo=False)
    unnamed(model, last_layer(model, "Add"))
    feeds = {model.graph.inputs[0].name: example("whisper")}
    whole = run(exported("whisper", dynamo=False), feeds)[0]
    tokens, kept = run(compress(model, "divprune", keep=9), feeds)[:2]
    np.testing.assert_allclose(tokens, whole[:, kept[0]], rtol=1e-4, atol=1e-5)
