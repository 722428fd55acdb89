"""Size-aware attention: add log(size) to the attention logits of merged tokens.

Softmax attention over s equal tokens gives them s times the weight of one; merged into one token they lose it, and
log(s) on that token's logit gives it back, exactly where the merged tokens were equal. ToMe, section 3, calls it
proportional attention.
"""

from __future__ import annotations

import onnx_ir as ir

from ...errors import GraphError
from ..ir_tools.attention import CONTRIB, Attention, attentions, pooling_attentions
from ..ir_tools.builder import DTYPE_NAMES, Builder
from ..ir_tools.token_flow import ends_tokens, prefix_dropped
from ..ir_tools.walk import Walk, dims
from ..seams.self_attention import keys_are_tokens
from .signals import insert_after


def add_size_bias(
    model: ir.Model,
    tensor: ir.Value,
    sizes: ir.Value,
    prefix: int = 0,
    until: ir.Value | None = None,
    *,
    layers: bool = True,
) -> list[str]:
    """Add log(`sizes`) to the logits of encoder attention downstream of compressed tokens, in place.

    That is self-attention, and that of a pooling head, whose learned probe attends to the tokens.

    Only for graphs that we own: it changes what the layers after the seam compute.

    Args:
        model: the graph.
        tensor: compressed tokens [B, prefix + K, D] inside an encoder. The walk from there ends where tokens leave
            the encoder: at a slice that drops the prefix, or a pooled token.
        sizes: [B, K] float32, at least 1 each.
        prefix: leading tokens of `tensor`, of size 1 each.
        until: the value at which they will be compressed again: only attention upstream of it gets the bias.
        layers: whether self-attention gets it too, or only pooling heads.

    Returns:
        Names of the Softmax or Attention nodes that now read the bias.

    Raises:
        GraphError: no such attention is downstream of `tensor`, or one is in a form the bias cannot be added to.
    """
    walk = Walk(model)
    inside = _inside(walk, tensor, until)
    found = [a for a in attentions(walk) if layers and a.node in inside and _of_itself(a, tensor, inside)]
    found += [a for a in pooling_attentions(walk) if a.node in inside]
    found = [a for a in found if keys_are_tokens(walk, a, tensor)]
    if not found:
        raise GraphError(
            "there is no self-attention downstream of the compressed tokens to which log(sizes) could be added",
            where=f"tensor {tensor.name}",
            fix="Use --size-bias off, or a seam with encoder layers after it.",
        )
    biases = _Biases(model.graph, sizes, prefix)
    return [_biased(model.graph, biases, attention) for attention in found]


def pools_by_attention(model: ir.Model, tensor: ir.Value, until: ir.Value | None = None) -> bool:
    """Whether a pooling head attends to the tokens of `tensor`, upstream of `until` where that is given."""
    walk = Walk(model)
    inside = _inside(walk, tensor, until)
    return any(keys_are_tokens(walk, a, tensor) for a in pooling_attentions(walk) if a.node in inside)


def _inside(walk: Walk, tensor: ir.Value, until: ir.Value | None) -> set[ir.Node]:
    inside = walk.descendants(tensor, until=_leaves)
    return inside if until is None else inside & walk.ancestors(until)


# Operator -> its input attn_mask or attention_bias.
_MASK_INPUTS = {
    ("", "Attention"): 3,
    (CONTRIB, "Attention"): 5,
    (CONTRIB, "MultiHeadAttention"): 5,
    (CONTRIB, "DecoderMaskedMultiHeadAttention"): 4,
    (CONTRIB, "GroupQueryAttention"): 10,
}


class _Biases:
    """The bias in each dtype and shape, made once."""

    def __init__(self, graph: ir.Graph, sizes: ir.Value, prefix: int) -> None:
        self.graph, self.sizes, self.prefix = graph, sizes, prefix
        self.made: dict[tuple[ir.DataType, int, bool], ir.Value] = {}

    def get(self, dtype: ir.DataType, rank: int, *, rows: bool = False) -> ir.Value:
        """[B, 1, .., 1, prefix + K] of `rank`, or with `rows` [B, 1, .., prefix + K, prefix + K]."""
        key = (dtype, rank, rows)
        if key not in self.made:
            b = Builder(f"{self.sizes.name}.log_{DTYPE_NAMES[dtype]}_{rank}{'_rows' if rows else ''}.")
            bias = b.op("Log", self.sizes)
            if self.prefix:
                # Pad, not Concat with zeros: it needs no batch size.
                bias = b.op("Pad", bias, [0, self.prefix, 0, 0], 0.0)
            if dtype != ir.DataType.FLOAT:
                bias = b.cast(bias, DTYPE_NAMES[dtype])
            bias = b.op("Unsqueeze", bias, list(range(1, rank - 1)))
            batch, keep = dims(self.sizes) or (None, None)
            length = keep + self.prefix if keep is not None else None
            if rows:
                assert length is not None, "sizes have a static count"
                bias = b.op("Expand", bias, [*[1] * (rank - 2), length, 1])
            bias.dtype = dtype
            bias.shape = ir.Shape([batch, *[1] * (rank - 3), length if rows else 1, length])
            insert_after(self.graph, [self.sizes], b.nodes)
            self.made[key] = bias
        return self.made[key]


def _leaves(node: ir.Node) -> bool:
    """Whether tokens leave the encoder here, or are compressed again, which gives them new sizes."""
    return prefix_dropped(node) > 0 or ends_tokens(node) or node.domain == "tokexport"


def _of_itself(attention: Attention, tensor: ir.Value, inside: set[ir.Node]) -> bool:
    """Whether queries and keys both come from the compressed tokens."""
    return all(value is tensor or value.producer() in inside for value in attention.product)


def _biased(graph: ir.Graph, biases: _Biases, attention: Attention) -> str:
    node = attention.node
    name = node.name or node.outputs[0].name or ""
    source = attention.logits if attention.logits is not None else attention.product[0]
    rank, dtype = len(dims(source) or ()), source.dtype
    if dtype not in DTYPE_NAMES:
        raise GraphError(
            f"the type of the attention logits is {dtype}, so a bias cannot be added",
            where=f"node {name}, tensor {source.name}",
            fix="Use --size-bias off.",
        )
    if attention.logits is None:
        # ONNX Runtime wants a mask with all its rows, though the operator's definition broadcasts one.
        at = mask_input(node)
        rows = node.inputs[at : at + 1] in ((), (None,))
        add_to_mask(graph, node, biases.get(dtype, 4, rows=rows))
        return name
    batch = (dims(biases.sizes) or (None,))[0]
    if rank not in (3, 4) or (rank == 3 and batch != 1):
        raise GraphError(
            f"attention logits of rank {rank} with batch {batch or 'dynamic'} have no separate batch axis",
            where=f"node {name}, tensor {source.name}",
            fix="Export the model with batch size 1, or with attention [B, H, n, n]; or use --size-bias off.",
        )
    b = Builder(f"{node.outputs[0].name}.size_bias.")
    summed = b.op("Add", source, biases.get(dtype, rank))
    summed.dtype, summed.shape = dtype, source.shape
    graph.insert_before(node, b.nodes)
    node.replace_input_with(0, summed)
    return name


def mask_input(node: ir.Node) -> int:
    """Which input of an attention operator is what it adds to its logits."""
    return _MASK_INPUTS[node.domain, node.op_type]


def add_to_mask(graph: ir.Graph, node: ir.Node, bias: ir.Value) -> None:
    """Give an attention operator a bias as its additive mask, or add it to the mask it has.

    Args:
        graph: of the node.
        node: for which `mask_input` is known.
        bias: [B, 1, n, m] or, where there is a mask, [B, 1, 1, m], of the type of the queries.
    """
    at = mask_input(node)
    if len(node.inputs) <= at:
        node.resize_inputs(at + 1)
    mask = node.inputs[at]
    if mask is not None:
        dtype = bias.dtype
        assert dtype is not None
        b = Builder(f"{node.outputs[0].name}.size_bias.")
        if mask.dtype == ir.DataType.BOOL:
            zero, nothing = (b.cast(number, DTYPE_NAMES[dtype]) for number in (0.0, float("-inf")))
            mask = b.op("Where", mask, zero, nothing)
        bias = b.op("Add", mask, bias)
        bias.dtype = dtype
        graph.insert_before(node, b.nodes)
    node.replace_input_with(at, bias)
