"""A decoder that reads ids, parted into its table of words and a decoder that reads what stands there."""

from __future__ import annotations

import onnx_ir as ir

from ...errors import GraphError
from ...graph_passes.ir_tools.input_shapes import given_inputs
from ...graph_passes.ir_tools.model_io import IR_VERSION
from .beside import EMBEDS

IDS = "input_ids"
_TABLES = {"Gather": 1, "GatherBlockQuantized": 1}
_CURE = "Export the decoder with an input inputs_embeds [B, S, D], and its words as a graph of their own."


def words_apart(model: ir.Model, width: int) -> ir.Model:
    """Part a decoder, in place: its input ``input_ids`` becomes ``inputs_embeds`` [B, S, D].

    Args:
        model: a decoder.
        width: D.

    Returns:
        The graph of its words: input_ids [B, S] -> inputs_embeds [B, S, D].

    Raises:
        GraphError: ids are read by something else too, or what the table gives is scaled: whether an image's tokens are
            scaled likewise, the graph does not say.
    """
    graph = model.graph
    ids = next((value for value in given_inputs(graph) if value.name == IDS), None)
    if ids is None:
        raise GraphError(f"it has no input {EMBEDS} and no input {IDS}", where=f"graph {graph.name}", fix=_CURE)
    tables = [node for node in ids.consumers() if node.op_type in _TABLES and node.inputs[1] is ids]
    others = [node for node in ids.consumers() if node not in tables and node.op_type != "Shape"]
    if len(tables) != 1 or others:
        told = ", ".join(f"{node.name or node.outputs[0].name} ({node.op_type})" for node in others or tables) or "none"
        raise GraphError(
            f"{IDS} is read by other nodes than one table of words: {told}", where=f"graph {graph.name}", fix=_CURE
        )
    (table,) = tables
    found = table.outputs[0]
    scaled = next((one for one in found.consumers() if _scales(one, found)), None)
    if scaled is not None:
        raise GraphError(
            "the words are scaled behind their table, and whether the tokens of an image are the graph does not say",
            where=f"node {scaled.name or scaled.outputs[0].name} ({scaled.op_type})",
            fix=_CURE,
        )
    assert ids.shape is not None
    embeds = ir.Value(name=EMBEDS, type=found.type, shape=ir.Shape([*ids.shape[:2], width]))
    words = _words(model, table, ids)
    for node in list(ids.consumers()):
        if node.op_type == "Shape":
            node.replace_input_with(0, embeds)
            node.attributes.setdefault("end", ir.AttrInt64("end", 2))
    for node, index in list(found.uses()):
        node.replace_input_with(index, embeds)
    graph.remove(table)
    for value in table.inputs:
        if value is not None and not value.uses():
            graph.initializers.pop(value.name or "", None)
    graph.inputs[list(graph.inputs).index(ids)] = embeds
    return words


def _scales(node: ir.Node, value: ir.Value) -> bool:
    """Whether it multiplies `value` by one number."""
    numbers = [ir.convenience.get_const_tensor(one) for one in node.inputs if one is not None and one is not value]
    return node.op_type in ("Mul", "Div") and any(one is not None and one.size == 1 for one in numbers)


def _words(model: ir.Model, table: ir.Node, ids: ir.Value) -> ir.Model:
    given = ir.Value(name=IDS, type=ids.type, shape=ids.shape)
    held = {
        value: ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=value.const_value)
        for value in table.inputs
        if value is not None and value is not ids
    }
    read = [None if value is None else given if value is ids else held[value] for value in table.inputs]
    node = ir.Node(table.domain, table.op_type, read, list(table.attributes.values()), num_outputs=1, name="words")
    node.outputs[0].name, node.outputs[0].type = EMBEDS, table.outputs[0].type
    imports = {key: model.graph.opset_imports[key] for key in {"", table.domain}}
    graph = ir.Graph(
        [given], node.outputs, nodes=[node], initializers=[*held.values()], opset_imports=imports, name="words"
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="tokexport")
