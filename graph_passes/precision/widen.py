"""Some nodes of a half-precision graph compute in float32, and everything else stays as it is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..ir_tools.infer_shapes import infer_missing_shapes
from ..ir_tools.walk import dims, has_subgraph, node_keys
from .casts import add_cast
from .rounded import HALVES, retype_attributes

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Cost:
    """What float32 islands cost.

    Attributes:
        casts: Cast nodes more.
        weight_bytes: of weights more.
        value_bytes: of the islands' outputs more, over the whole graph; those of unknown size are left out.
    """

    casts: int
    weight_bytes: int
    value_bytes: int


def widen(
    model: ir.Model, nodes: Collection[str], weights: Mapping[str, ir.TensorProtocol] | None = None
) -> tuple[ir.Model, Cost]:
    """A copy of `model` whose nodes `nodes` compute in float32.

    A value that nodes outside of an island read keeps its name and its half type there.

    Args:
        model: it is not changed; no local functions.
        nodes: by `walk.node_keys`.
        weights: float32 weights by the names of the model's, which take the place of half ones of the same shape in an
            island; without one the half weight is widened, and what it lost stays lost.

    Returns:
        (the model, what it costs).
    """
    result = model.clone()
    infer_missing_shapes(result)
    keys = node_keys(result.graph)
    inside = [node for node in result.graph if keys.get(node) in nodes and not has_subgraph(node)]
    edit = _Widening(result.graph, inside, weights or {})
    edit.run()
    return result, Cost(edit.casts, edit.weight_bytes, edit.value_bytes)


class _Widening:
    def __init__(self, graph: ir.Graph, inside: list[ir.Node], weights: Mapping[str, ir.TensorProtocol]) -> None:
        self.graph, self.inside, self.weights = graph, inside, weights
        self.casts = self.weight_bytes = self.value_bytes = 0
        self._floats: dict[ir.Value, ir.Value] = {}

    def run(self) -> None:
        own = set(self.inside)
        outputs = [value for node in self.inside for value in node.outputs]
        made = {value: half for value in outputs if (half := value.dtype) in HALVES and half}
        for node in self.inside:
            for i, value in enumerate(node.inputs):
                if value is not None and value.dtype in HALVES and value not in made:
                    node.replace_input_with(i, self._float(value))
        for value, half in made.items():
            value.type = ir.TensorType(FLOAT)
            self.value_bytes += 2 * _size(value)
            outside = [(node, i) for node, i in value.uses() if node not in own]
            if outside or value.is_graph_output():
                self._back(value, half, outside)
        for node in self.inside:
            if node.outputs and node.outputs[0].dtype == FLOAT:
                retype_attributes(node)
        for value in [value for value in self._floats if value.is_initializer() and not value.uses()]:
            if not value.is_graph_output() and not value.is_graph_input():
                self.graph.initializers.pop(value.name or "")

    def _float(self, value: ir.Value) -> ir.Value:
        """A value of half precision as float32: its weight, or a Cast of it."""
        if value not in self._floats:
            weight = value.is_initializer() and not value.is_graph_input()
            self._floats[value] = self._weight(value) if weight else self._cast(value, FLOAT, f"{value.name}.float32")
        return self._floats[value]

    def _weight(self, value: ir.Value) -> ir.Value:
        tensor = value.const_value
        assert tensor is not None
        name, other = f"{value.name}.float32", self.weights.get(value.name or "")
        if other is not None and other.dtype == FLOAT and tuple(other.shape) == tuple(tensor.shape):
            array = other.numpy()
        else:
            array = tensor.numpy().astype(np.float32)
        new = ir.Value(name=name, type=ir.TensorType(FLOAT), shape=value.shape, const_value=ir.Tensor(array, name=name))
        self.graph.register_initializer(new)
        own = set(self.inside)
        alone = not value.is_graph_output() and all(node in own for node, _ in value.uses())
        self.weight_bytes += array.nbytes - (tensor.nbytes if alone else 0)
        return new

    def _cast(self, value: ir.Value, to: ir.DataType, name: str) -> ir.Value:
        self.casts += 1
        return add_cast(self.graph, value, to, name)

    def _back(self, value: ir.Value, half: ir.DataType, outside: list[tuple[ir.Node, int]]) -> None:
        """Who is outside reads the value in half precision, under its own name."""
        name, value.name = value.name or "", f"{value.name}.island"
        back = self._cast(value, half, name)
        for node, i in outside:
            node.replace_input_with(i, back)
        for i, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[i] = back


def _size(value: ir.Value) -> int:
    shape = dims(value)
    return 0 if shape is None or None in shape else math.prod(size for size in shape if size is not None)
