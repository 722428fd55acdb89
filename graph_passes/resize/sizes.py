"""Sizes and shape arithmetic in a graph, before and after the tokens become fewer.

Every number is a pair (before, after). A dynamic dimension is a large prime of its own: products of dimensions then
compare and divide as the sizes would for any value of it, and a prime that represents a batch is never mistaken for a
token count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

from ..ir_tools.fold_shapes import FIRST_STAND_IN, stand_in

if TYPE_CHECKING:
    from .axis import Axis

Pair: TypeAlias = tuple[int | None, int | None]
_LONGEST = 64  # Shape vectors are short; anything longer is data.


class Sizes:
    """Shapes of values and contents of small integer vectors.

    Args:
        axes: value -> token axes, filled by the caller while it walks in graph order.
    """

    def __init__(self, axes: Mapping[ir.Value, Mapping[int, Axis]]) -> None:
        self.axes = axes
        self.known: dict[ir.Value, tuple[int, ...]] = {}
        self._symbols: dict[object, int] = {}
        self._data: dict[ir.Value, list[Pair] | None] = {}

    def dims(self, value: ir.Value) -> tuple[int, ...] | None:
        """The shape before compression, or None where the rank is not known."""
        if value not in self.known:
            shape = value.shape
            if shape is None and value.const_value is not None:
                shape = value.const_value.shape  # type: ignore[assignment]
            if shape is None:
                return None
            self.known[value] = tuple(self._dim(dim, value, i) for i, dim in enumerate(shape))
        return self.known[value]

    def symbolic(self, size: int) -> bool:
        """Whether a number represents, or contains, a dynamic dimension."""
        return size >= FIRST_STAND_IN

    def data(self, value: ir.Value) -> list[Pair] | None:
        """The integers in a scalar or vector, None as a whole, or for single entries, where they are unknown."""
        if value not in self._data:
            self._data[value] = None
            self._data[value] = self._compute(value)
        return self._data[value]

    def _dim(self, dim: object, value: ir.Value, axis: int) -> int:
        if isinstance(dim, int):
            return dim
        name = getattr(dim, "value", None)
        key = name if name is not None else (value, axis)
        if key not in self._symbols:
            self._symbols[key] = stand_in(len(self._symbols))
        return self._symbols[key]

    def _compute(self, value: ir.Value) -> list[Pair] | None:
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            if tensor.size > _LONGEST or not (tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL):
                return None
            return [(int(x), int(x)) for x in tensor.numpy().reshape(-1)]
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _DATA:
            return None
        return _DATA[node.op_type](self, node)

    def _shape_of(self, value: ir.Value) -> list[Pair] | None:
        dims = self.dims(value)
        if dims is None:
            return None
        axes = self.axes.get(value, {})
        return [(axes[i].size, axes[i].kept) if i in axes else (dim, dim) for i, dim in enumerate(dims)]


def _shape(sizes: Sizes, node: ir.Node) -> list[Pair] | None:
    pairs = sizes._shape_of(node.inputs[0])  # type: ignore[arg-type]
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else None
    return None if pairs is None else pairs[start:end]


def _size(sizes: Sizes, node: ir.Node) -> list[Pair] | None:
    return _product(sizes._shape_of(node.inputs[0]))  # type: ignore[arg-type]


def _product(pairs: list[Pair] | None) -> list[Pair] | None:
    if pairs is None or any(old is None or new is None for old, new in pairs):
        return None
    return [
        (math.prod(old for old, _ in pairs if old is not None), math.prod(new for _, new in pairs if new is not None))
    ]


def _same(sizes: Sizes, node: ir.Node) -> list[Pair] | None:
    return sizes.data(node.inputs[0])  # type: ignore[arg-type]


def _concat(sizes: Sizes, node: ir.Node) -> list[Pair] | None:
    parts = [sizes.data(value) if value is not None else None for value in node.inputs]
    joined: list[Pair] = []
    for part, value in zip(parts, node.inputs):
        if part is None:
            dims = None if value is None else sizes.dims(value)
            if dims is None or len(dims) != 1 or dims[0] > _LONGEST:
                return None
            part = [(None, None)] * dims[0]
        joined += part
    return joined


def _gather(sizes: Sizes, node: ir.Node) -> list[Pair] | None:
    pairs, index = (sizes.data(value) if value is not None else None for value in node.inputs[:2])
    if pairs is None or index is None or any(old is None or old != new for old, new in index):
        return None
    if any(not -len(pairs) <= i < len(pairs) for i, _ in index if i is not None):
        return None
    return [pairs[i] for i, _ in index if i is not None]


def _slice(sizes: Sizes, node: ir.Node) -> list[Pair] | None:
    operands = [sizes.data(value) if value is not None else None for value in node.inputs]
    pairs, bounds = operands[0], operands[1:3] + operands[4:5]
    if pairs is None or any(b is None or len(b) != 1 or b[0][0] is None or b[0][0] != b[0][1] for b in bounds):
        return None
    start, end, *step = (b[0][0] for b in bounds if b is not None)
    return pairs[slice(start, end, step[0] if step else 1)]


def _binary(function: Callable[[int, int], int | None]) -> Callable[[Sizes, ir.Node], list[Pair] | None]:
    def apply(a: int | None, b: int | None) -> int | None:
        return None if a is None or b is None else function(a, b)

    def rule(sizes: Sizes, node: ir.Node) -> list[Pair] | None:
        left, right = (sizes.data(value) if value is not None else None for value in node.inputs[:2])
        if left is None or right is None:
            return None
        n = max(len(left), len(right))
        if len(left) not in (1, n) or len(right) not in (1, n):
            return None
        return [
            (apply(a[0], b[0]), apply(a[1], b[1]))
            for a, b in zip(left * (n // len(left) if left else 0), right * (n // len(right) if right else 0))
        ]

    return rule


def _where(sizes: Sizes, node: ir.Node) -> list[Pair] | None:
    condition, yes, no = (sizes.data(value) if value is not None else None for value in node.inputs)
    if condition is None or yes is None or no is None:
        return None
    n = max(len(condition), len(yes), len(no))
    if any(len(x) not in (1, n) for x in (condition, yes, no)):
        return None
    c, y, m = (x * (n if len(x) == 1 else 1) for x in (condition, yes, no))
    if any(flag[0] is None or flag[0] != flag[1] for flag in c):
        return None
    return [y[i] if c[i][0] else m[i] for i in range(n)]


def _filled(sizes: Sizes, node: ir.Node) -> list[Pair] | None:
    length = sizes.data(node.inputs[0])  # type: ignore[arg-type]
    if length is None or len(length) != 1 or length[0][0] is None or length[0][0] != length[0][1]:
        return None
    fill = node.attributes["value"].as_tensor().numpy().reshape(-1)[0] if "value" in node.attributes else 0.0
    return [(int(fill), int(fill))] * length[0][0] if float(fill) == int(fill) and length[0][0] <= _LONGEST else None


_DATA: dict[str, Callable[[Sizes, ir.Node], list[Pair] | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Where": _where,
    "ConstantOfShape": _filled,
    "ReduceProd": lambda sizes, node: _product(_same(sizes, node)),
    "Add": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _binary(lambda a, b: a // b if b > 0 <= a else None),
    "Max": _binary(max),
    "Min": _binary(min),
    "Equal": _binary(lambda a, b: int(a == b)),
    **dict.fromkeys(("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"), _same),
}
