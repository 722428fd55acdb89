"""Nodes as an exporter writes them: constants, sizes worked out in the graph, and names of modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_MODULES = "pkg.torch.onnx.name_scopes"


class Writer:
    """Collects the nodes and weights of a graph.

    Args:
        names: how nodes are named, as in `Spelling`.
        opset: of the standard operators.
        float_type: of the weights.
    """

    def __init__(self, names: str, opset: int, float_type: type) -> None:
        self.names, self.opset, self.float = names, opset, float_type
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.path: list[str] = []
        self.count = 0

    @contextlib.contextmanager
    def module(self, name: str) -> Iterator[None]:
        """Nodes added inside belong to this module."""
        self.path.append(name)
        yield
        self.path.pop()

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        self.count += 1
        out = out or f"v{self.count}"
        name = f"n{self.count}" if self.names == "plain" else ""
        if self.names.endswith("torchscript"):
            name = "/" + "/".join([*(part for path in self.path for part in path.split("/")), f"{kind}_{self.count}"])
        node = helper.make_node(kind, list(inputs), [out], name=name, **attributes)
        if self.names.endswith("dynamo"):
            parts = [part for path in self.path for part in path.split("/")]
            paths = ["", *(".".join(parts[: i + 1]) for i in range(len(parts))), kind.lower()]
            node.name = f"node_{kind}_{self.count}"
            node.metadata_props.add(key=_MODULES, value=repr(paths))
        self.nodes.append(node)
        return out

    def const(self, array: Any, dtype: Any = np.int64) -> str:
        """A constant of integers, or of `dtype`."""
        return self.weight(f"c{len(self.initializers)}", np.asarray(array, dtype), cast=False)

    def scalar(self, number: float) -> str:
        """A float of the type of the weights."""
        return self.const(number, self.float)

    def weight(self, name: str, array: np.ndarray, *, cast: bool = True) -> str:
        """A weight in the type of the graph; asked for again, it is the same one."""
        if all(each.name != name for each in self.initializers):
            self.initializers.append(numpy_helper.from_array(array.astype(self.float) if cast else array, name))
        return name

    def size(self, value: str, axis: int) -> str:
        """[1]: the size of an axis, worked out as PyTorch's tracer writes it."""
        found = self.op("Gather", self.op("Shape", value), self.const(axis), axis=0)
        return self.op("Unsqueeze", found, self.const([0]))

    def reshape(self, value: str, sizes: list[Any], how: str) -> str:
        """Reshape to `sizes`: numbers, or (source value, axis, number) where the size is that of another value.

        Args:
            value: what is reshaped.
            sizes: for each axis.
            how: ``constant``, ``zeros`` (the axes that stay are 0) or ``arithmetic``.
        """
        if how == "arithmetic":
            parts = [self.size(*size[:2]) if isinstance(size, tuple) else self.const([size]) for size in sizes]
            return self.op("Reshape", value, self.op("Concat", *parts, axis=0))
        numbers = []
        for i, size in enumerate(sizes):
            same = isinstance(size, tuple) and size[1] == i
            numbers.append(0 if how == "zeros" and same else size[2] if isinstance(size, tuple) else size)
        return self.op("Reshape", value, self.const(numbers))

    def slice(self, value: str, start: int, end: int, axis: int) -> str:
        """A part of an axis."""
        return self.op("Slice", value, self.const([start]), self.const([end]), self.const([axis]), self.const([1]))

    def mean(self, value: str, axis: int, keep: int, out: str = "") -> str:
        """The mean over an axis."""
        if self.opset < 18:
            return self.op("ReduceMean", value, axes=[axis], keepdims=keep, out=out)
        return self.op("ReduceMean", value, self.const([axis]), keepdims=keep, out=out)

    def cast(self, value: str, to: int, out: str = "") -> str:
        """A Cast."""
        return self.op("Cast", value, to=to, out=out)


FLOAT_TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}


def without_some_names(model: onnx.ModelProto, cut: float, gap: float) -> None:
    """Take the names from the nodes between two shares of the graph, in place; from all before `cut` if `gap` < 0."""
    count = len(model.graph.node)
    first, last = (0, cut) if gap < 0 else (cut, cut + gap)
    for node in list(model.graph.node)[int(first * count) : int(last * count) + 1]:
        node.name = ""
        del node.metadata_props[:]
