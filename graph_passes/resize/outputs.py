"""Outputs that are not computed from the tokens keep the old count: lengths, masks, position ids, other features."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx_ir as ir

from ...errors import GraphError
from ..ir_tools.token_flow import token_slice
from ..ir_tools.walk import FLOATS, Walk, dims


def refuse_outputs_beside(walk: Walk, tensor: str, tokens: int, prefix: int) -> None:
    """Refuse graph outputs that may count the `tokens` of `tensor` and do not come from them.

    The tensor is [B, prefix + tokens, D], or without a batch [prefix + tokens, D].

    An output that is computed from the tokens follows them, or the proof of the downstream graph refuses. Of the rest,
    integers and booleans may be lengths, masks or positions whatever their size; floats count the tokens where an axis
    has one entry for each.

    Raises:
        GraphError: names all of them, and the option that leaves them out.
    """
    value = walk.value(tensor)
    if value is None:
        return
    downstream = walk.descendants(value)
    others = [x for x in walk.graph.outputs if x is not value and x.producer() not in downstream]
    first = int(len(dims(value) or ()) == 3)
    counts = {tokens, prefix + tokens}
    # Where a prefix was cut off upstream, features beside may still have it.
    cut = [dims(node.inputs[0]) or () for node in walk.ancestors(value) if token_slice(node) is not None]
    longer = {shape[first] for shape in cut if len(shape) == first + 2}
    features = [x for x in others if len(dims(x) or ()) == first + 2]
    stale = [x for x in others if _may_count(x, counts) or (x in features and _may_count(x, longer))]
    if not stale:
        return
    names = [x.name or "" for x in stale]
    drop = " ".join(f"--drop-output {name}" for name in names)
    listed = ", ".join(f"{x.name!r} {list(dims(x) or ())}" for x in stale)
    raise GraphError(
        f"output(s) {listed} may count the {tokens} tokens of {tensor!r}, and are not computed from them: "
        "they would keep the old count",
        where=f"graph {walk.graph.name or 'main'}, tensor {tensor}",
        fix=f"Leave out what you do not need: {drop} (drop_outputs={names}); or choose a seam upstream of them.",
    )


def _may_count(value: ir.Value, counts: Collection[int | None]) -> bool:
    if value.dtype not in FLOATS:
        return True
    shape = dims(value)
    if shape is None:
        return True
    # Tokens may lie on any axis ([N, B, D], [B, D, N]), or as a grid on two or three ([B, H, W, D]).
    spans = [shape[i:j] for i in range(len(shape)) for j in range(i + 1, min(i + 3, len(shape)) + 1)]
    return any(None not in span and math.prod(span) in counts for span in spans)  # type: ignore[arg-type]
