"""The least memory a graph needs: weights, inputs and outputs, and live intermediate tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

# Types whose values have no fixed size.
_SIZELESS = frozenset({"STRING", "UNDEFINED"})


@dataclass(frozen=True)
class Needs:
    """Bytes.

    Attributes:
        weights: initializers and constants of the graph, its subgraphs and functions.
        ends: inputs and outputs, the KV cache included; input and output caches are separate buffers.
        activations: the peak of live intermediate tensors. A runtime that fuses needs less, one that keeps
            workspace more. Tensors inside a function are not counted.
        unknown: tensors whose size is not in the graph, counted as 0 bytes.
    """

    weights: int
    ends: int
    activations: int
    unknown: int = 0

    @property
    def total(self) -> int:
        """The sum, in bytes."""
        return self.weights + self.ends + self.activations


def needs(model: ir.Model) -> Needs:
    """The memory one graph needs; weights are measured, not read."""
    graph = model.graph
    weights = sum(
        value.const_value.nbytes
        for each in model.graphs()
        for value in each.initializers.values()
        if value.const_value is not None
    )
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    ends = {id(value): _bytes(value) for value in (*inputs, *graph.outputs)}
    last: dict[int, int] = {}
    nodes = list(graph)
    for place, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None:
                last[id(value)] = place
    alive = most = unknown = 0
    dying: dict[int, int] = {}
    for place, node in enumerate(nodes):
        constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
        for value in node.outputs:
            size = _bytes(value)
            unknown += size is None
            if constant:
                weights += size or 0
            elif id(value) not in ends and id(value) in last:
                alive += size or 0
                dying[last[id(value)]] = dying.get(last[id(value)], 0) + (size or 0)
        most = max(most, alive)
        alive -= dying.pop(place, 0)
    unknown += sum(size is None for size in ends.values())
    return Needs(weights, sum(size or 0 for size in ends.values()), most, unknown)


def _bytes(value: ir.Value) -> int | None:
    if value.shape is None or value.dtype is None or not all(isinstance(axis, int) for axis in value.shape):
        return None
    if value.dtype.name in _SIZELESS:
        return None
    size = 1
    for axis in value.shape:
        size *= int(axis)  # type: ignore[arg-type]
    return int(size * value.dtype.itemsize)
