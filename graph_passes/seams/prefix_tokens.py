"""Which tokens of a sequence are not patches: CLS, distillation and register tokens, proved by the graph."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..ir_tools.token_flow import NORMS, prefix_dropped, token_slice
from ..ir_tools.walk import Walk, attribute, dims

_PLACEWISE = NORMS | {"Add", "Cast", "Dropout", "Identity", "Mul"}
_MOST_LEARNED = 33  # No encoder is known with more tokens of its own besides its patches.
_ALL = int(np.iinfo(np.int32).max)


def learned_tokens(walk: Walk, before: set[ir.Node], after: set[ir.Node], length: int) -> tuple[int, int]:
    """Leading and trailing tokens of a sequence of `length` that are parameters, not patches.

    Proved by an upstream Concat that puts parameters before (or after) computed tokens, else by a downstream Slice that
    drops leading tokens. Nothing is concluded from names, or from the length being a square plus one.

    Args:
        walk: the graph.
        before: nodes that the sequence is computed from.
        after: nodes that use it.
        length: tokens in it.
    """
    joins = [node for node in before if node.op_type in ("Concat", "Slice") and _length(node.outputs[0]) == length]
    for node in reversed(walk.sorted(joins)):
        if node.op_type == "Concat":
            found = _ends(walk, node.outputs[0])
            if found != (0, 0) and sum(found) < length:
                return found
        span = token_slice(node)
        if span is not None and node.inputs[0] is not None:
            # A slice after the encoder may leave a part of the prefix, such as registers without CLS.
            whole = _length(node.inputs[0]) or length
            front, back = learned_tokens(walk, walk.ancestors(node.inputs[0]), set(), whole)
            if front or back:
                return max(front - span[0], 0), max(back - (whole - span[1]), 0)
    for node in walk.sorted(node for node in after if node.op_type == "Slice"):
        dropped = prefix_dropped(node)
        if dropped and _length(node.inputs[0]) == length:
            return dropped, 0
    return 0, 0


def unexplained(walk: Walk, before: set[ir.Node], tokens: int) -> str:
    """Why a sequence may not be taken for `tokens` patches: a few more than a convolution gives places; else empty."""
    counts = [n for node in before if node.op_type == "Conv" and (n := _places(node)) is not None]
    patches = max((n for n in counts if n <= tokens), default=0)
    if not patches < tokens < min(2 * patches, patches + _MOST_LEARNED):
        return ""
    return (
        f"it has {tokens} tokens where a convolution upstream gives {patches} places, and it is not shown where "
        f"the other {tokens - patches} stand (CLS, registers); export the model again with "
        "torch.onnx.export(..., dynamo=True), tokens joined by torch.cat"
    )


def _places(node: ir.Node) -> int | None:
    places = (dims(node.outputs[0]) or ())[2:]
    return None if not places or None in places else math.prod(places)  # type: ignore[arg-type]


def _ends(walk: Walk, value: ir.Value) -> tuple[int, int]:
    """Leading and trailing parameters in a sequence [B, n, D] or [n, D]; both are n if it holds nothing else."""
    length = _length(value)
    if length is None:
        return 0, 0
    if walk.learned(value):
        return length, length
    node = value.producer()
    if node is None:
        return 0, 0
    if node.op_type == "Concat" and attribute(node, "axis", 0) in (len(dims(value) or ()) - 2, -2):
        parts = [x for x in node.inputs if x is not None]
        if any(_length(x) is None for x in parts):
            return 0, 0
        ends = [(_length(x) or 0, *_ends(walk, x)) for x in parts]
        return _run([(n, front) for n, front, _ in ends]), _run([(n, back) for n, _, back in reversed(ends)])
    span = token_slice(node)
    if span is not None and node.inputs[0] is not None:
        start, end = span
        whole = _length(node.inputs[0]) or _ALL
        front, back = _ends(walk, node.inputs[0])
        return min(max(front - start, 0), end - start), min(max(back - (whole - end), 0), end - start)
    if node.op_type in _PLACEWISE:
        computed = walk.inputs(node)
        if len(computed) == 1 and _length(computed[0]) == length:
            return _ends(walk, computed[0])
    return 0, 0


def _run(parts: list[tuple[int, int]]) -> int:
    """Parameters before the first computed token, over parts of (length, leading parameters)."""
    total = 0
    for length, front in parts:
        total += front
        if front < length:
            break
    return total


def _length(value: ir.Value | None) -> int | None:
    shape = dims(value)
    return shape[-2] if shape is not None and len(shape) in (2, 3) else None
