"""Small integers of a graph by numpy, one function for each operator that shape arithmetic is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir


def plain(node: ir.Node, name: str, default: Any) -> Any:
    """The plain value of an attribute, or the default of the operator."""
    found = node.attributes.get(name)
    return default if found is None or found.is_ref() else found.value


def _axes(node: ir.Node, given: np.ndarray | None) -> tuple[int, ...] | None:
    axes = plain(node, "axes", None) if given is None else given.reshape(-1).tolist()
    return None if axes is None else tuple(int(axis) for axis in axes)


def _cast(node: ir.Node, x: np.ndarray) -> np.ndarray:
    return x.astype(ir.DataType(plain(node, "to", 7)).numpy())


def _divide(node: ir.Node, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if np.result_type(a, b).kind != "i":
        return np.asarray(a / b)
    # ONNX divides integers towards zero.
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)))


def _slice(node: ir.Node, x: np.ndarray, *bounds: np.ndarray | None) -> np.ndarray:
    if not bounds:
        starts, ends = np.array(plain(node, "starts", ())), np.array(plain(node, "ends", ()))
        axes = _axes(node, None) or tuple(range(len(starts)))
        steps = [1] * len(starts)
    else:
        first, past, given, strides = (*bounds, None, None)[:4]
        if first is None or past is None:
            raise ValueError
        starts, ends = first, past
        axes = tuple(range(len(starts))) if given is None else tuple(int(i) for i in given)
        steps = [1] * len(starts) if strides is None else [int(i) for i in strides]
    where: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps):
        last = int(end)
        where[axis] = slice(int(start), None if step < 0 and last < -x.shape[axis] else last, step)
    return x[tuple(where)]


def _squeeze(node: ir.Node, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return np.squeeze(x, _axes(node, axes))


def _unsqueeze(node: ir.Node, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return np.expand_dims(x, _axes(node, axes) or ())


def _filled(node: ir.Node, shape: np.ndarray) -> np.ndarray:
    fill = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1, np.float32)
    return np.full(tuple(int(x) for x in shape.reshape(-1)), fill.reshape(-1)[0])


def _reduce(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def apply(node: ir.Node, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(function(x, axis=_axes(node, axes), keepdims=bool(plain(node, "keepdims", 1))))

    return apply


def _plain(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    return lambda node, *inputs: np.asarray(function(*inputs))


def _expand(node: ir.Node, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(i) for i in shape)))


def _reshape(node: ir.Node, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return x.reshape([x.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)])


def _range(node: ir.Node, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return np.arange(start.reshape(-1)[0], limit.reshape(-1)[0], delta.reshape(-1)[0], dtype=start.dtype)


COMPARES = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"})
GROWS = frozenset({"Range", "ConstantOfShape", "Expand", "Tile"})
EVALUATE: dict[str, Callable[..., Any]] = {
    "Add": _plain(np.add),
    "And": _plain(np.logical_and),
    "Cast": _cast,
    "Ceil": _plain(np.ceil),
    "Concat": lambda node, *parts: np.concatenate(parts, plain(node, "axis", 0)),
    "ConstantOfShape": _filled,
    "CumSum": lambda node, x, axis: np.cumsum(x, int(axis.reshape(-1)[0]), dtype=x.dtype),
    "Div": _divide,
    "Equal": _plain(np.equal),
    "Expand": _expand,
    "Flatten": lambda node, x: x.reshape(int(np.prod(x.shape[: plain(node, "axis", 1)])), -1),
    "Floor": _plain(np.floor),
    "Gather": lambda node, x, index: np.take(x, index, plain(node, "axis", 0)),
    "Greater": _plain(np.greater),
    "GreaterOrEqual": _plain(np.greater_equal),
    "Identity": lambda node, x: x,
    "Less": _plain(np.less),
    "LessOrEqual": _plain(np.less_equal),
    "Max": _plain(lambda *x: np.maximum.reduce(np.broadcast_arrays(*x))),
    "Min": _plain(lambda *x: np.minimum.reduce(np.broadcast_arrays(*x))),
    "Mod": lambda node, a, b: np.fmod(a, b) if plain(node, "fmod", 0) else np.mod(a, b),
    "Mul": _plain(np.multiply),
    "Neg": _plain(np.negative),
    "Not": _plain(np.logical_not),
    "Or": _plain(np.logical_or),
    "Range": _range,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Sqrt": _plain(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(np.subtract),
    "Tile": lambda node, x, repeats: np.tile(x, [int(i) for i in repeats]),
    "Transpose": lambda node, x: np.transpose(x, plain(node, "perm", None)),
    "Unsqueeze": _unsqueeze,
    "Where": _plain(np.where),
}
