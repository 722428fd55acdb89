"""Split a model in two at named values: the primitive that inserting, proving, debugging and sweeping build on.

The tail holds every node its outputs need, walking back from the graph outputs and stopping at the named values. Where
a path from the graph inputs to an output bypasses them, the tail computes it again from the graph inputs, which then
are inputs of the tail too. So ``tail(head(x), x)`` always equals ``model(x)``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from ...errors import GraphError, RequestError, nearest
from .infer_shapes import infer_missing_shapes


def extract(model: ir.Model, tensors: Sequence[str]) -> tuple[ir.Model, ir.Model]:
    """Split at `tensors`; `model` itself is not changed, except that missing shapes are added.

    Args:
        model: any model. Weights are shared with the parts, never copied.
        tensors: names of values of the main graph, in the order the tail takes them.

    Returns:
        head: graph inputs -> `tensors`; tail: `tensors` (and the graph inputs it still needs, after them) -> graph
        outputs. Names are kept, so a graph output among `tensors` is both input and output of the tail. Local
        functions go where they are called.

    Raises:
        RequestError: no tensors, one twice, or a name the graph does not have.
        GraphError: the type or shape of one of `tensors` is unknown.
    """
    graph = model.graph
    values = values_by_name(graph)
    if not tensors:
        raise RequestError("no tensor to split at was given", fix="Name at least one value of the graph.")
    if len(set(tensors)) < len(tensors):
        raise RequestError(f"a tensor is named twice in {list(tensors)}", fix="Name each value once.")
    for name in tensors:
        if name not in values:
            raise RequestError(
                f"the graph has no tensor {name!r}", where=f"graph {graph.name}", fix=_near(name, list(values))
            )
        if values[name].is_initializer() and not values[name].is_graph_input():
            raise RequestError(f"{name!r} is a constant", where=f"graph {graph.name}", fix="Split at a computed value.")
    at = [values[name] for name in tensors]
    if any(value.type is None or value.shape is None for value in at):
        infer_missing_shapes(model)
    for value in at:
        if value.type is None or value.shape is None:
            raise GraphError(
                f"type and shape of {value.name!r} are not known",
                where=f"graph {graph.name}",
                fix="Shape inference stops at an operator it does not know: add value_info for this tensor.",
            )
    head = _part(model, list(graph.inputs), at, f"{graph.name or 'graph'}_head")
    needed = _inputs_needed(graph, graph.outputs, at)
    tail_inputs = at + [value for value in graph.inputs if value in needed and value not in at]
    return head, _part(model, tail_inputs, list(graph.outputs), f"{graph.name or 'graph'}_tail")


def values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    """Every value of the graph itself (not of its subgraphs) by name."""
    values = {value.name: value for node in graph for value in node.outputs if value.name}
    values.update((value.name, value) for value in graph.inputs if value.name)
    values.update(graph.initializers)
    return values


def between(model: ir.Model, at: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """The part from `at`, and the graph inputs that it needs besides, to `outputs`; `model` is not changed.

    Args:
        model: weights are shared with the part, never copied.
        at: names of values of the main graph, with known types and shapes; those that the part does not read are none
            of its inputs.
        outputs: names of values.
    """
    values = values_by_name(model.graph)
    begin, end = [values[name] for name in at], [values[name] for name in outputs]
    needed = _inputs_needed(model.graph, end, begin)
    inputs = begin + [value for value in model.graph.inputs if value in needed and value not in begin]
    found = _part(model, inputs, end, f"{model.graph.name or 'graph'}_part")
    for value in [value for value in found.graph.inputs if not value.uses() and not value.is_graph_output()]:
        found.graph.inputs.remove(value)
    return found


def _inputs_needed(graph: ir.Graph, outputs: Collection[ir.Value], at: Collection[ir.Value]) -> set[ir.Value]:
    """The inputs of `graph` that `outputs` need when the walk back stops at `at`."""
    stops, seen, needed = set(at), set(), set()
    stack = list(outputs)
    while stack:
        value = stack.pop()
        if value in seen or value in stops:
            continue
        seen.add(value)
        node = value.producer()
        if node is None:
            if value.is_graph_input() and value.graph is graph and not value.is_initializer():
                needed.add(value)
            continue
        stack.extend(v for v in _reads(node) if v not in seen)
    return needed


def _reads(node: ir.Node) -> list[ir.Value]:
    """The values a node reads, including outer values read by its subgraphs."""
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        graphs = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else []
        graphs = list(attribute.value) if attribute.type == ir.AttributeType.GRAPHS else graphs
        for graph in graphs:
            for inner in graph.all_nodes():
                values.extend(value for value in inner.inputs if value is not None)
            values.extend(graph.outputs)
    return values


def _part(model: ir.Model, inputs: list[ir.Value], outputs: list[ir.Value], name: str) -> ir.Model:
    graph = ir.convenience.extract(model.graph, inputs, outputs)
    graph.name = name
    used = _functions_used(model, graph)
    return ir.Model(
        graph,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        functions=[function.clone() for function in used],
        metadata_props=dict(model.metadata_props),
    )


def _functions_used(model: ir.Model, graph: ir.Graph) -> list[ir.Function]:
    used: dict[ir.OperatorIdentifier, ir.Function] = {}
    stack = [node.op_identifier() for node in graph.all_nodes()]
    while stack:
        key = stack.pop()
        if key in model.functions and key not in used:
            used[key] = model.functions[key]
            stack.extend(node.op_identifier() for node in used[key].all_nodes())
    return [function for key, function in model.functions.items() if key in used]


def _near(name: str, known: list[str]) -> str:
    hint = nearest(name, known, kind="tensors")
    return hint if len(known) <= 20 else hint.split("Known tensors:")[0] + "`tokexport inspect` lists the seams."
