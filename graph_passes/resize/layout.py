"""Rules for operators that move, drop or join entries of the token axis: transpose, slice, split, concat, gather, pad.

A rule reads the token axes of its inputs and returns those of the outputs (one `Axes` for all, or one each). It records
baked-in counts that must change and refuses what it cannot prove.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir

from .axis import Axes
from .state import Downstream


def transpose(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Axes move with the permutation."""
    axes = downstream.axes[node.inputs[0]]  # type: ignore[index]
    rank = len(downstream.dims(node, node.inputs[0]))
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else tuple(reversed(range(rank)))
    return [{i: axes[p] for i, p in enumerate(perm) if p in axes}]


def squeeze(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Axes of size one are removed; a token axis is never one of them."""
    dims = downstream.dims(node, node.inputs[0])
    axes = downstream.axes[node.inputs[0]]  # type: ignore[index]
    gone = downstream.ints(node, 1)
    if gone is None:
        gone = [i for i, size in enumerate(dims) if size == 1]
        if any(axis.kept == 1 for axis in axes.values()):
            downstream.refuse(node, "it names no axes, so it would drop the token axis once a single token is left")
    gone = [i % len(dims) for i in gone]
    kept = [i for i in range(len(dims)) if i not in gone]
    return [{at: axes[i] for at, i in enumerate(kept) if i in axes}]


def unsqueeze(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Axes of size one are added."""
    axes = downstream.axes[node.inputs[0]]  # type: ignore[index]
    new = downstream.ints(node, 1)
    if new is None:
        downstream.refuse(node, f"its axes {downstream.label(node, 1)} are not constant")
    rank = len(downstream.dims(node, node.inputs[0])) + len(new)
    indices = [i for i in range(rank) if i not in {a % rank for a in new}]
    return [{at: axes[i] for i, at in enumerate(indices) if i in axes}]


def slice_(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """On a token axis: only leading or trailing entries that are not tokens may be dropped, or be all that is kept."""
    dims = downstream.dims(node, node.inputs[0])
    axes = dict(downstream.axes.get(node.inputs[0], {}))  # type: ignore[arg-type]
    bounds = [downstream.sizes.data(value) for value in node.inputs[1:3] if value is not None]
    if len(bounds) < 2 or bounds[0] is None or bounds[1] is None:
        downstream.refuse(node, "the value of its bounds cannot be derived")
    starts, ends = bounds[0], bounds[1]
    where = downstream.ints(node, 3) if downstream.has_input(node, 3) else list(range(len(starts)))
    steps = downstream.ints(node, 4) if downstream.has_input(node, 4) else [1] * len(starts)
    if where is None or steps is None:
        downstream.refuse(node, "its axes or steps are not constant")
    for i, at in enumerate(a % len(dims) for a in where):
        if at not in axes:
            if starts[i][0] != starts[i][1] or ends[i][0] != ends[i][1]:
                downstream.refuse(
                    node, f"it slices one entry of {downstream.label(node, 0)} per token, by the token's index"
                )
            continue
        axis = axes.pop(at)
        if None in (*starts[i], *ends[i]):
            downstream.refuse(node, f"the value of its bounds on the token axis {at} cannot be derived")
        start, end = (_bound(pair[0], axis.size) for pair in (starts[i], ends[i]))
        moved = (axis.move(start), axis.move(end)) if axis.plain else (None, None)
        if moved[0] is None or moved[1] is None or steps[i] != 1 or end <= start:
            downstream.refuse(
                node,
                f"[{starts[i][0]}:{ends[i][0]}:{steps[i]}] on axis {at} takes {max(end - start, 0)} of {axis.size} "
                f"entries by position (the first {axis.prefix} and the last {axis.suffix} are not tokens)",
            )
        for index, pairs, wanted in ((1, starts, moved[0]), (2, ends, moved[1])):
            if _bound(pairs[i][1], axis.kept) == wanted:
                continue
            current = downstream.operand(node, index)
            if current is None and any(new is None for _, new in pairs):
                downstream.refuse(
                    node, f"its bound on the token axis {at} cannot be rewritten because others are computed"
                )
            array = np.array([new for _, new in pairs] if current is None else current, np.int64).reshape(-1)
            array[i] = wanted
            text = f"{('start', 'end')[index - 1]} on axis {at} from {pairs[i][0]} to {wanted}"
            downstream.edit(node, index, array, text)
        part = axis.part(start, end)
        if part is not None:
            axes[at] = part
    return [axes]


def _bound(value: int | None, size: int) -> int:
    assert value is not None
    return min(max(value + size if value < 0 else value, 0), size)


def split(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """On a token axis: only between entries that are not tokens, and by sizes, not into equal parts."""
    dims = downstream.dims(node, node.inputs[0])
    axes = downstream.axes[node.inputs[0]]  # type: ignore[index]
    at = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % len(dims)
    if at not in axes:
        return [axes]
    axis, rest_axes = axes[at], {i: a for i, a in axes.items() if i != at}
    sizes = downstream.ints(node, 1)
    if sizes is None:
        n = len(node.outputs)
        downstream.refuse(
            node, f"it splits the {axis.size} entries of the token axis {at} into {n} parts of equal size"
        )
    bounds = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    moved = [axis.move(b) if axis.plain else None for b in bounds]
    if any(b is None for b in moved):
        downstream.refuse(node, f"it splits the token axis {at} at {bounds[1:-1]}, among the tokens")
    new = [int(b) - int(a) for a, b in pairwise(moved)]  # type: ignore[arg-type]
    if new != sizes:
        downstream.edit(node, 1, np.array(new, np.int64), f"sizes from {sizes} to {new}")
    parts = [axis.part(a, b) for a, b in pairwise(bounds)]
    return [{**rest_axes, at: part} if part is not None else rest_axes for part in parts]


def concat(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Along the token axis: other entries may come before and after one span of tokens. Along others: all agree."""
    dims = [downstream.dims(node, value) for value in node.inputs]
    rank = len(dims[0])
    at = node.attributes["axis"].as_int() % rank
    out: Axes = {}
    for i in range(rank):
        carriers = [k for k, value in enumerate(node.inputs) if i in downstream.axes.get(value, {})]  # type: ignore[arg-type]
        if not carriers:
            continue
        axis = downstream.axes[node.inputs[carriers[0]]][i]  # type: ignore[index]
        if i != at:
            for k in range(len(dims)):
                axis = downstream.meet(node, k, i, axis)
        elif len(carriers) > 1 or not axis.plain:
            downstream.refuse(node, f"it joins {len(carriers)} spans of tokens on axis {i}")
        else:
            before = sum(d[i] for d in dims[: carriers[0]])
            after = sum(d[i] for d in dims[carriers[0] + 1 :])
            if downstream.sizes.symbolic(before + after):
                downstream.refuse(
                    node, f"it joins tokens and a dynamic count on axis {i}", fix="Export with static shapes."
                )
            axis = axis.extended(before, after)
        out[i] = axis
    return [out]


def gather(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """On a token axis: constant indices of entries that are not tokens. On other axes the indices may be per token."""
    data_dims, index_dims = downstream.dims(node, node.inputs[0]), downstream.dims(node, node.inputs[1])
    data, index = (downstream.axes.get(value, {}) for value in node.inputs[:2])  # type: ignore[arg-type]
    at = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % len(data_dims)
    if at in data:
        axis, array = data[at], downstream.operand(node, 1)
        if array is None or index:
            downstream.refuse(node, f"it picks tokens of axis {at} by computed indices")
        indices = array.astype(np.int64)
        indices = np.where(indices < 0, indices + axis.size, indices)
        fixed = (indices < axis.prefix) | (indices >= axis.size - axis.suffix)
        if not axis.plain or not fixed.all():
            downstream.refuse(
                node,
                f"constant {downstream.label(node, 1)} picks tokens of axis {at} by position (the first "
                f"{axis.prefix} and the last {axis.suffix} are not tokens)",
            )
        moved = np.where(indices < axis.prefix, indices, indices - axis.size + axis.kept)
        if not np.array_equal(np.where(array < 0, array + axis.kept, array), moved):
            downstream.edit(
                node, 1, moved.astype(array.dtype), f"indices on axis {at} moved by {axis.kept - axis.size}"
            )
    shift = len(index_dims) - 1
    out = {i if i < at else i + shift: axis for i, axis in data.items() if i != at}
    return [{**out, **{at + i: axis for i, axis in index.items()}}]


def tile(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Only axes other than the token axis may be repeated."""
    axes = downstream.axes.get(node.inputs[0], {})  # type: ignore[arg-type]
    repeats = downstream.ints(node, 1)
    if repeats is None:
        downstream.refuse(node, f"its repeats {downstream.label(node, 1)} depend on the tokens")
    for i in axes:
        if repeats[i] != 1:
            downstream.refuse(node, f"it repeats the token axis {i} {repeats[i]} times")
    return [axes]


def pad(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Padding adds entries before and after the tokens that are not tokens themselves."""
    dims = downstream.dims(node, node.inputs[0])
    axes = dict(downstream.axes.get(node.inputs[0], {}))  # type: ignore[arg-type]
    pads = downstream.ints(node, 1)
    where = downstream.ints(node, 3) if downstream.has_input(node, 3) else list(range(len(dims)))
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    if pads is None or where is None:
        downstream.refuse(node, "its padding depends on the tokens")
    for i, at in enumerate(a % len(dims) for a in where):
        before, after = pads[i], pads[i + len(where)]
        if at not in axes or before == after == 0:
            continue
        axis = axes[at]
        if not axis.plain or before < 0 or after < 0 or mode != "constant":
            downstream.refuse(node, f"it pads the token axis {at} ({mode}, {before} before, {after} after)")
        axes[at] = axis.extended(before, after)
    return [axes]


def range_(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Numbering the tokens would renumber those that are kept: positions must be an input, not a count."""
    downstream.refuse(node, "it numbers the tokens, so those kept would get new positions")
