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
    stale = [x for x in others if _may_count(x, counts, first) or (x in features and _may_count(x, longer, first))]
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


def _may_count(value: ir.Value, counts: Collection[int | None], first: int) -> bool:
    if value.dtype not in FLOATS:
        return True
    shape = dims(value)
    if shape is None:
        return True
    # The last axis of features holds channels, those before `first` the batch.
    places = shape[first:-1] if len(shape) > 1 + first else shape[first:]
    area = math.prod(size for size in shape[2:] if size is not None) if len(shape) == 4 else None
    return any(size in counts for size in places) or area in counts
