"""log(size) as an input of a language model: added to the attention logits of every layer.

A merged token of size s counts s times in attention when log(s) is added to its logit (ToMe, section 3). Here the bias
comes from outside, [B, keys], and the graph is anyone's: attention as Softmax of a product, ONNX's Attention, or the
fused operators of ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from ...errors import GraphError
from ..insertion.size_bias import add_to_mask, mask_input
from ..ir_tools.attention import CONTRIB, match
from ..ir_tools.builder import DTYPE_NAMES, Builder
from ..ir_tools.walk import Walk, attribute, dims, has_subgraph

# Operators with an input that is added to their logits.
_OPERATORS = {
    "": ("Attention",),
    CONTRIB: ("Attention", "DecoderMaskedMultiHeadAttention", "GroupQueryAttention", "MultiHeadAttention"),
}
_KEYS = "total_sequence_length"
_Size: TypeAlias = "int | ir.SymbolicDim | str"


@dataclass(frozen=True)
class Place:
    """One attention.

    Attributes:
        node: a Softmax, or an operator of `_OPERATORS`.
        query: what its queries are read from.
        key: what its keys are read from.
        logits: of the Softmax, [B, H, n, m]; None for an operator.
    """

    node: ir.Node
    query: ir.Value
    key: ir.Value
    logits: ir.Value | None = None

    @property
    def name(self) -> str:
        """For people."""
        return self.node.name or self.node.outputs[0].name or self.node.op_type

    @property
    def dtype(self) -> ir.DataType | None:
        """Of the logits."""
        return self.query.dtype if self.logits is None else self.logits.dtype

    @property
    def rows(self) -> int:
        """The axis of `query` that counts the queries."""
        rank = len(dims(self.query) or ())
        return 2 if rank == 4 and self.node.domain != CONTRIB else 1


def places(walk: Walk) -> list[Place]:
    """Every attention of the main graph.

    Raises:
        GraphError: there is none; one is in a branch, reads keys of something else than the tokens, or takes no bias.
    """
    found = [place for node in walk.nodes if (place := _place(walk, node)) is not None]
    if not found:
        inner = next((node for node in walk.nodes if has_subgraph(node)), None)
        raise GraphError(
            "no attention was found in the main graph",
            where=f"graph {walk.graph.name}" if inner is None else f"node {inner.name} ({inner.op_type}) holds graphs",
            fix="Give the ONNX file of a language model with attention; of a merged decoder, the two files it was made "
            "of (decoder_model.onnx and decoder_with_past_model.onnx), each by itself.",
        )
    _refuse_cross(walk, found)
    return found


def add_bias(walk: Walk, found: list[Place], name: str) -> ir.Value:
    """Add the input `name` [B, keys] float32 to the graph and to the logits of these attentions, in place.

    Returns:
        The input.

    Raises:
        GraphError: the graph has such a value; layers see different numbers of keys; or logits have no batch axis.
    """
    graph = walk.graph
    if walk.value(name) is not None or name in graph.initializers:
        raise GraphError(
            f"the graph has a value {name!r} already",
            where=f"graph {graph.name}",
            fix="It may have been attached before. --input NAME calls the new input otherwise.",
        )
    batch, keys = _shape(walk, found)
    bias = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([batch, keys]))
    graph.inputs.append(bias)
    made: dict[ir.DataType, ir.Value] = {}
    for place in found:
        dtype = place.dtype
        if dtype not in DTYPE_NAMES:
            raise GraphError(f"the type of the attention logits is {dtype}", where=f"node {place.name}")
        if dtype not in made:
            b = Builder(f"{name}.{DTYPE_NAMES[dtype]}.")
            lone = b.op("Unsqueeze", bias, [1, 2])
            made[dtype] = b.cast(lone, DTYPE_NAMES[dtype]) if dtype != ir.DataType.FLOAT else lone
            made[dtype].type, made[dtype].shape = ir.TensorType(dtype), ir.Shape([batch, 1, 1, keys])
            graph.insert_before(walk.nodes[0], b.nodes)
        _add(graph, place, made[dtype])
    return bias


def _place(walk: Walk, node: ir.Node) -> Place | None:
    if node.op_type in _OPERATORS.get(node.domain, ()):
        query = node.inputs[0]
        key = node.inputs[1] if (len(node.inputs) > 1 and node.op_type != "Attention") or node.domain == "" else None
        if query is None:
            raise GraphError("it has no queries", where=f"node {node.name} ({node.op_type})")
        return Place(node, query, key if key is not None else query)
    if node.op_type.endswith("Attention"):
        raise GraphError(
            f"{node.domain or 'ai.onnx'}.{node.op_type} takes nothing that is added to its logits",
            where=f"node {node.name or node.outputs[0].name}",
            fix="Export the model with GroupQueryAttention, MultiHeadAttention, or attention in standard operators.",
        )
    found = match(walk, node)
    if found is None or found.logits is None:
        return None
    rank = len(dims(found.logits) or ())
    if rank != 4:
        raise GraphError(
            f"the attention logits have rank {rank or 'unknown'}, so they have no batch axis",
            where=f"node {node.name}, tensor {found.logits.name}",
            fix="Export the model with attention [B, H, n, m].",
        )
    return Place(node, *found.product, logits=found.logits)


def _refuse_cross(walk: Walk, found: list[Place]) -> None:
    """The first attention of a decoder is of itself; one whose keys read none of its inputs attends elsewhere."""
    tokens = inputs_of(walk, found[0].query)
    for place in found:
        read = inputs_of(walk, place.key)
        if not read & tokens:
            names = ", ".join(sorted(value.name or "" for value in read)) or "constants"
            raise GraphError(
                f"its keys come from {names}, not from the tokens: this is cross-attention, which counts other tokens",
                where=f"node {place.name}",
                fix="attach is for language models of one sequence. Export a Whisper or Moonshine checkpoint with "
                "`tokexport model`, which carries log(size) into cross-attention.",
            )


def inputs_of(walk: Walk, value: ir.Value, *, values: bool = False) -> set[ir.Value]:
    """The graph inputs a value is computed from; with `values`, those whose content it depends on, not their sizes."""

    def sized(node: ir.Node) -> bool:
        return values and node.op_type in ("Shape", "Size")

    if value in walk.graph.inputs:
        return {value}
    above = walk.ancestors(value, until=sized)
    read = {one for node in above if not sized(node) for one in node.inputs if one is not None}
    return {one for one in walk.graph.inputs if one in read}


def _shape(walk: Walk, found: list[Place]) -> tuple[_Size, _Size]:
    """[B, keys]: as the attention mask says them where there is one, and the logits where they say them."""
    counts = {
        shape[-1]: place for place in found if place.logits is not None and (shape := dims(place.logits)) and shape[-1]
    }
    if len(counts) > 1:
        told = ", ".join(f"{count} at node {place.name}" for count, place in counts.items())
        raise GraphError(
            f"layers see different numbers of keys: {told}",
            where=f"graph {walk.graph.name}",
            fix="One bias cannot count for all of them. Export the model with one length of its cache.",
        )
    mask = next((one for one in walk.graph.inputs if one.name == "attention_mask"), None)
    if mask is not None and mask.shape is not None and len(mask.shape) == 2:
        batch: _Size = mask.shape[0]
        keys: _Size = mask.shape[1]
    else:
        first = next(one for one in walk.graph.inputs if one in inputs_of(walk, found[0].query) and one.shape)
        assert first.shape is not None
        batch, keys = first.shape[0], _KEYS
    return batch, next(iter(counts), keys)


def _add(graph: ir.Graph, place: Place, bias: ir.Value) -> None:
    node = place.node
    b = Builder(f"{node.outputs[0].name}.{bias.name}.")
    if place.logits is not None:
        summed = b.op("Add", place.logits, bias)
        summed.type, summed.shape = place.logits.type, place.logits.shape
        graph.insert_before(node, b.nodes)
        node.replace_input_with(0, summed)
        return
    at = mask_input(node)
    if node.inputs[at : at + 1] in ((), (None,)):
        # ONNX Runtime wants a mask with all its rows, though the operator's definition broadcasts one.
        count = b.op("Shape", place.query, start=place.rows, end=place.rows + 1)
        rows = b.op("Expand", bias, b.op("Concat", [1, 1], count, [1], axis=0))
        assert bias.shape is not None
        rows.type, rows.shape = bias.type, ir.Shape([*bias.shape[:2], None, bias.shape[3]])
        graph.insert_before(node, b.nodes)
        bias = rows
    add_to_mask(graph, node, bias)


def masks(place: Place) -> bool:
    """Whether a mask of tokens can reach its logits, beside how many there are."""
    node = place.node
    if node.op_type != "GroupQueryAttention":
        return True
    at = mask_input(node)
    return node.inputs[at : at + 1] not in ((), (None,))


def rotates(node: ir.Node) -> bool:
    """Whether this GroupQueryAttention turns its queries and keys by their positions itself."""
    return node.op_type == "GroupQueryAttention" and bool(attribute(node, "do_rotary", 0))
