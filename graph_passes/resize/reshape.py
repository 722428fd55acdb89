"""Rules for operators whose operand is a shape: the token count baked into it is found and rewritten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from .axis import Axes, Axis
from .sizes import Pair
from .state import Downstream


def reshape(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """A token axis is located by the product of the sizes to its left, and its baked-in size is rewritten.

    It may be merged with neighbouring axes and split off again. Splitting the tokens (into a grid) is refused.
    """
    source = downstream.dims(node, node.inputs[0])
    axes = downstream.axes.get(node.inputs[0], {})  # type: ignore[arg-type]
    target = downstream.sizes.data(node.inputs[1])  # type: ignore[arg-type]
    if target is None:
        downstream.refuse(
            node, f"its shape operand {downstream.label(node, 1)} is not a constant and not computed from shapes"
        )
    allow_zero = bool(node.attributes["allowzero"].as_int()) if "allowzero" in node.attributes else False
    copied = [i for i, (old, _) in enumerate(target) if old == 0 and not allow_zero and i < len(source)]
    wanted = _resolve(downstream, node, source, target, copied)
    found, kept = _find_axes(downstream, node, source, axes, wanted)
    _write_shape(downstream, node, target, source, axes, wanted, kept, copied)
    downstream.sizes.known[node.outputs[0]] = tuple(wanted)
    return [found]


def _resolve(
    downstream: Downstream, node: ir.Node, source: tuple[int, ...], target: list[Pair], copied: list[int]
) -> list[int]:
    """The output shape before compression, with the one -1 entry resolved by division."""
    declared = downstream.sizes.dims(node.outputs[0])
    wanted: list[int | None] = []
    for i, (old, _) in enumerate(target):
        size = source[i] if i in copied else None if old is None or old < 0 else old
        if size is None and old is None and declared is not None and not downstream.sizes.symbolic(declared[i]):
            size = declared[i]
        wanted.append(size)
    total, known = math.prod(source), math.prod(size for size in wanted if size is not None)
    if wanted.count(None) == 1 and known and total % known == 0:
        wanted[wanted.index(None)] = total // known
    if None in wanted or math.prod(size for size in wanted if size is not None) != total:
        downstream.refuse(
            node,
            f"its output shape cannot be derived from {_sizes(downstream, source)}",
            fix="Export the model with static shapes, or run shape inference on it.",
        )
    return [size for size in wanted if size is not None]


def _find_axes(
    downstream: Downstream, node: ir.Node, source: tuple[int, ...], axes: Axes, wanted: list[int]
) -> tuple[Axes, list[int]]:
    """Token axes and sizes of the output after compression."""
    found: Axes = {}
    for at, axis in axes.items():
        left = math.prod(source[:at]) * axis.outer
        start = 1
        for i, size in enumerate(wanted):
            if left % start == 0 and left // start * axis.old <= size and size % (left // start * axis.old) == 0:
                if i in found:
                    downstream.refuse(node, f"it merges two token axes into axis {i} of {_sizes(downstream, wanted)}")
                outer = left // start
                found[i] = replace(axis, outer=outer, inner=size // (outer * axis.old))
                break
            start *= size
        else:
            if any(downstream.sizes.symbolic(size) for size in (*source, *wanted)):
                downstream.refuse(
                    node,
                    f"the position of the {axis.old} tokens of {_sizes(downstream, source)} within "
                    f"{_sizes(downstream, wanted)} depends on a dynamic dimension",
                    fix="Export the model with static shapes, or run shape inference (data_prop=True) on it.",
                )
            downstream.refuse(
                node,
                f"it spreads the {axis.old} tokens of {_sizes(downstream, source)} over several axes of "
                f"{_sizes(downstream, wanted)}, as for a grid",
                fix="Choose a seam downstream of the operation that needs the grid, or a method that keeps one.",
            )
    return found, [found[i].kept if i in found else size for i, size in enumerate(wanted)]


def _write_shape(
    downstream: Downstream,
    node: ir.Node,
    target: list[Pair],
    source: tuple[int, ...],
    axes: Axes,
    wanted: list[int],
    kept: list[int],
    copied: list[int],
) -> None:
    """Check the shape operand against the sizes after compression; rewrite entries that no longer hold."""
    after = [axes[i].kept if i in axes else size for i, size in enumerate(source)]
    right = [
        after[i] == size if i in copied else new in (-1, size) or (new is None and downstream.sizes.symbolic(size))
        for i, ((_, new), size) in enumerate(zip(target, kept))
    ]
    if all(right):
        return
    shape: list[int] = []
    for i, size in enumerate(kept):
        if not downstream.sizes.symbolic(size):
            shape.append(size)
        elif i < len(after) and after[i] == size:
            shape.append(0)
        else:
            shape.append(-1)
    if shape.count(-1) > 1:
        downstream.refuse(
            node, "its new shape cannot be written with two dynamic dimensions", fix="Fix the batch size."
        )
    moved = ", ".join(f"axis {i} from {wanted[i]} to {kept[i]}" for i, ok in enumerate(right) if not ok)
    downstream.edit(node, 1, np.array(shape, np.int64), f"shape {moved}")


def flatten(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Flatten is a reshape to two axes."""
    source = downstream.dims(node, node.inputs[0])
    at = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    at += len(source) if at < 0 else 0
    wanted = [math.prod(source[:at]), math.prod(source[at:])]
    downstream.sizes.known[node.outputs[0]] = tuple(wanted)
    return [_find_axes(downstream, node, source, downstream.axes[node.inputs[0]], wanted)[0]]  # type: ignore[index]


def expand(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """A token count baked into the shape is rewritten; a computed one must already follow the tokens."""
    source = downstream.dims(node, node.inputs[0])
    axes = downstream.axes.get(node.inputs[0], {})  # type: ignore[arg-type]
    shape = downstream.sizes.data(node.inputs[1])  # type: ignore[arg-type]
    if shape is None:
        downstream.refuse(
            node, f"its shape operand {downstream.label(node, 1)} is not a constant and not computed from shapes"
        )
    rank = max(len(shape), len(source))
    out: Axes = {i + rank - len(source): axis for i, axis in axes.items()}
    new = [pair[1] for pair in shape]
    texts = []
    for i, (old_size, new_size) in enumerate(shape):
        at = i + rank - len(shape)
        if at in out:
            if new_size == out[at].size != out[at].kept:
                texts.append(f"axis {i} from {new_size} to {out[at].kept}")
                new[i] = out[at].kept
            elif new_size not in (1, out[at].kept):
                downstream.refuse(node, f"it expands the token axis {at} to {new_size}")
        elif old_size != new_size:
            if old_size is None or new_size is None:
                downstream.refuse(node, f"its shape operand {downstream.label(node, 1)} is not known on axis {i}")
            out[at] = Axis(old_size, new_size, uniform=True)
    if texts:
        if any(x is None for x in new):
            downstream.refuse(
                node, "its new shape cannot be written with a dynamic dimension", fix="Fix the batch size."
            )
        # In Expand a 1 keeps the input's size, which is how a dynamic dimension can be written.
        array = [1 if x is not None and downstream.sizes.symbolic(x) else x for x in new]
        downstream.edit(node, 1, np.array(array, np.int64), f"shape {', '.join(texts)}")
    return [out]


def constant_of_shape(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """A tensor of a computed shape has a token axis where that shape follows the token count."""
    shape = downstream.sizes.data(node.inputs[0])  # type: ignore[arg-type]
    if shape is None or any(old is None or new is None for old, new in shape):
        downstream.refuse(node, "its shape depends on the tokens in a way that cannot be derived")
    return [{i: Axis(old, new, uniform=True) for i, (old, new) in enumerate(shape) if old != new and old and new}]


def _sizes(downstream: Downstream, dims: Sequence[int]) -> str:
    return "[" + ", ".join("?" if downstream.sizes.symbolic(size) else str(size) for size in dims) + "]"
