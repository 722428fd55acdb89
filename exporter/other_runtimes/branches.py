"""Whole graphs as the branches of one: their weights once, their nodes inside an If.

Other runtimes have one graph for prompt and answer, and a bundle has two of fixed shapes: which of them runs follows
from the cache, which is empty before the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from ...errors import GraphError
from ...graph_passes.ir_tools.builder import Builder
from ...graph_passes.ir_tools.model_io import IR_VERSION


class Merged:
    """One model under construction.

    Args:
        name: of its graph.
        inputs: of the model, in order.
    """

    def __init__(self, name: str, inputs: Sequence[ir.Value]) -> None:
        self.name, self.inputs = name, list(inputs)
        self.body = Builder("main.")
        self._weights: dict[Any, ir.Value] = {}
        self._names: set[str] = set()
        self._functions: dict[ir.OperatorIdentifier, ir.Function] = {}
        self._opsets: dict[str, int] = {}

    def call(self, b: Builder, role: str, model: ir.Model, given: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        """Put the nodes of `model` behind those of `b`.

        Args:
            b: of the main graph or of a branch.
            role: names its nodes and values.
            model: is not changed, and shares its weights.
            given: input name -> value of the same type; all inputs of the model.

        Returns:
            Output name -> value.

        Raises:
            GraphError: two graphs have different versions of one operator set.
        """
        graph = model.clone().graph
        self._adopt(role, model)
        outputs = {value.name or "": value for value in graph.outputs}
        instead: dict[ir.Value, ir.Value] = {value: given[value.name or ""] for value in graph.inputs}
        for value in list(graph.initializers.values()):
            if value not in instead:
                instead[value] = self._weight(value, f"{b.prefix}{role}.")
        for old, new in instead.items():
            for node, index in list(old.uses()):
                node.replace_input_with(index, new)
        for value in [value for node in graph.all_nodes() for value in node.outputs]:
            # An output that is left out has no name.
            value.name = value.name and f"{b.prefix}{role}.{value.name}"
        for number, node in enumerate(graph.all_nodes()):
            node.name = f"{b.prefix}{role}.{number}.{node.op_type}"
        nodes = list(graph)
        graph.outputs.clear()
        graph.remove(nodes)
        b.nodes.extend(nodes)
        return {name: instead.get(value, value) for name, value in outputs.items()}

    def choose(
        self, condition: ir.Value, then: tuple[Builder, list[ir.Value]], other: tuple[Builder, list[ir.Value]]
    ) -> list[ir.Value]:
        """The values of one of two branches, in their order; `condition` is a bool scalar of the main graph."""
        graphs = {}
        for key, (b, values) in {"then_branch": then, "else_branch": other}.items():
            results = [b.op("Identity", value) for value in values]
            graphs[key] = ir.Graph([], results, nodes=b.nodes, name=b.prefix.rstrip("."))
        return self.body.ops("If", condition, n=len(then[1]), **graphs)

    def model(self, outputs: Mapping[str, ir.Value]) -> ir.Model:
        """The finished model; `outputs` by name, their types and shapes set."""
        results = []
        for name, value in outputs.items():
            result = self.body.op("Identity", value)
            result.name, result.type, result.shape = name, value.type, value.shape
            results.append(result)
        graph = ir.Graph(
            self.inputs,
            results,
            nodes=self.body.nodes,
            initializers=list(self._weights.values()),
            opset_imports=self._opsets,
            name=self.name,
        )
        return ir.Model(
            graph, ir_version=IR_VERSION, producer_name="tokexport", functions=list(self._functions.values())
        )

    def _adopt(self, role: str, model: ir.Model) -> None:
        for domain, version in model.graph.opset_imports.items():
            if self._opsets.setdefault(domain, version) != version:
                raise GraphError(
                    f"{role} has opset {version} of {domain or 'ai.onnx'}, and another graph of the bundle "
                    f"{self._opsets[domain]}",
                    fix="Export the bundle again: tokexport writes its language graphs in one opset.",
                )
        self._functions.update((key, function.clone()) for key, function in model.functions.items())

    def _weight(self, value: ir.Value, prefix: str) -> ir.Value:
        tensor = value.const_value
        assert tensor is not None
        about = (tensor.dtype, tuple(tensor.shape.numpy()))
        if isinstance(tensor, ir.ExternalTensor):
            key: Any = (*about, str(tensor.path), tensor.offset, tensor.length)
        else:
            key = (*about, tensor.tobytes())
        if key not in self._weights:
            name = value.name if value.name not in self._names else f"{prefix}{value.name}"
            self._names.add(name or "")
            self._weights[key] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(about[1]), const_value=tensor
            )
        return self._weights[key]


def tensor(name: str, dtype: ir.DataType, *shape: int | str) -> ir.Value:
    """An input of a graph; a name stands for an axis of any length."""
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def axes(value: ir.Value) -> list[int | str]:
    """The shape of a value as `tensor` takes it."""
    return [axis if isinstance(axis, int) else str(axis) for axis in value.shape or ()]


def require(b: Builder, ok: ir.Value, what: str) -> ir.Value:
    """int64 [1], zero; where `ok`, bool of one value, is false, the runtime stops with `what` as the node that failed.

    A Gather outside of its data would do as well, but not every runtime looks.
    """
    zero = b.op("Reshape", [0], b.op("Reshape", b.op("Where", ok, [1], [2]), [1]))
    b.nodes[-1].name = what
    return zero
