"""Local functions in the order in which they call each other, and how large a model is with all of them inlined."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from ...errors import GraphError

# Shape inference, runtimes and `inlined` expand every call: functions that call each other twice double at each level.
MOST_NODES = 4_000_000


def in_call_order(model: ir.Model) -> list[ir.Function]:
    """The functions of a model, each after those that it calls.

    Raises:
        GraphError: a function calls itself, directly or through others; or all calls together expand to more than
            `MOST_NODES` nodes.
    """
    calls = {name: [*_called(function.all_nodes(), model)] for name, function in model.functions.items()}
    order: list[ir.OperatorIdentifier] = []
    done: set[ir.OperatorIdentifier] = set()
    for first in calls:
        path, left = [first], [iter(calls[first])]
        while left and first not in done:
            below = next(left[-1], None)
            if below is None:
                order.append(path.pop())
                done.add(order[-1])
                left.pop()
            elif below in path:
                raise GraphError(
                    f"the graph has a cycle: the function {' calls '.join(_name(one) for one in [*path, below])}",
                    where=f"graph {model.graph.name}",
                    fix="Export the ONNX file again.",
                )
            elif below not in done:
                path.append(below)
                left.append(iter(calls[below]))
    _check_size(model, order, calls)
    return [model.functions[name] for name in order]


def _check_size(
    model: ir.Model, order: list[ir.OperatorIdentifier], calls: dict[ir.OperatorIdentifier, list[ir.OperatorIdentifier]]
) -> None:
    sizes: dict[ir.OperatorIdentifier, int] = {}
    for name in order:
        own = sum(1 for _ in model.functions[name].all_nodes())
        sizes[name] = own + sum(sizes[below] for below in calls[name])
    total = sum(sizes[name] for name in _called(model.graph.all_nodes(), model)) if sizes else 0
    if max(total, *sizes.values(), 0) > MOST_NODES:
        raise GraphError(
            f"the functions of the graph expand to more than {MOST_NODES} nodes",
            where=f"graph {model.graph.name}",
            fix="Export the ONNX file again, without functions that call each other.",
        )


def _called(nodes: Iterable[ir.Node], model: ir.Model) -> Iterable[ir.OperatorIdentifier]:
    return (node.op_identifier() for node in nodes if node.op_identifier() in model.functions)


def _name(identifier: ir.OperatorIdentifier) -> str:
    return f"{identifier[0]}.{identifier[1]}"
