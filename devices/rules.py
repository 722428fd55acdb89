"""Checks a graph against `rules.toml`: what each version of TensorRT refuses or gets silently wrong.

Parsing the graph on the target device is authoritative; the table covers devices that are not at hand.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError, nearest
from ..files import parse_toml

if TYPE_CHECKING:
    import onnx_ir as ir

RUNTIMES = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Violation:
    """A node, or a graph as a whole, that breaks a rule.

    Attributes:
        node: its name, after ``<function>/`` in the body of a local function; empty for a rule about the whole graph.
        op: its operator; for the whole graph the property, such as ``opset 18``.
        why: what is not supported, and what to use instead.
        source: where this is documented.
    """

    node: str
    op: str
    why: str
    source: str


@functools.cache
def rules(kind: str = "rule") -> tuple[Mapping[str, Any], ...]:
    """The rows of `rules.toml`: about operators (``rule``), whole graphs (``graph``), or domains (``domain``)."""
    return tuple(parse_toml(Path(__file__).with_name("rules.toml").read_bytes())[kind])


def binding(runtime: str, version: str) -> list[Mapping[str, Any]]:
    """The rows of all kinds that apply to a version of a runtime.

    Raises:
        RequestError: an unknown runtime, or a malformed version.
    """
    if runtime not in RUNTIMES:
        raise RequestError(f"unknown runtime {runtime!r}", fix=nearest(runtime, RUNTIMES, kind="runtimes"))
    rows = (*rules(), *rules("graph"), *rules("domain"))
    return [row for row in rows if runtime in row and _holds(row[runtime], version)]


def violations(model: ir.Model, runtime: str, version: str) -> list[Violation]:
    """What a version of TensorRT does not support in a model: the graph as a whole first, then its nodes.

    Nodes are those of the model, its subgraphs and its local functions.

    Args:
        model: only constants in memory are inspected; weights are not read.
        runtime: one of `RUNTIMES`.
        version: such as ``10.3`` or ``1.7.1.116``.

    Raises:
        RequestError: an unknown runtime, or a malformed version.
    """
    active: dict[str, list[Mapping[str, Any]]] = {}
    foreign: dict[str, Mapping[str, Any]] = {}
    found = []
    for rule in binding(runtime, version):
        if "op" in rule:
            active.setdefault(rule["op"], []).append(rule)
        elif "name" in rule:
            foreign[rule["name"]] = rule
        elif what := _GRAPH_CHECKS[rule["check"]](model, rule):
            found.append(Violation("", what, rule["why"], rule["source"]))
    for domain, row in foreign.items():
        those = [(name, node.op_type) for name, node in _nodes(model) if node.domain == domain]
        if those:
            kinds = ", ".join(sorted({kind for _, kind in those}))
            found.append(Violation(those[0][0], f"{domain}.{kinds}", row["why"], row["source"]))
    return found + [
        Violation(name, node.op_type, rule["why"], rule["source"])
        for name, node in _nodes(model)
        if node.domain in ("", "ai.onnx")
        for rule in active.get(node.op_type, ())
        if _CHECKS[rule["check"]](node, rule)
    ]


def _nodes(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    import onnx_ir as ir

    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        yield node.name or "", node
    for function in model.functions.values():
        for node in ir.traversal.RecursiveGraphIterator(function):
            yield f"{function.name}/{node.name or ''}", node


def _holds(versions: str, version: str) -> bool:
    return not versions or _numbers(version) < _numbers(versions.removeprefix("<"))


def _numbers(version: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        raise RequestError(
            f"{version!r} is not a version of TensorRT", fix="Write it with numbers, such as 10.3."
        ) from None


def _any(node: ir.Node, rule: Mapping[str, Any]) -> bool:
    return True


def _k_above(node: ir.Node, rule: Mapping[str, Any]) -> bool:
    import onnx_ir as ir

    value = node.inputs[1]
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    return constant is not None and int(constant.numpy().reshape(-1)[0]) > rule["limit"]


def _attribute_set(node: ir.Node, rule: Mapping[str, Any]) -> bool:
    attribute = node.attributes.get(rule["attribute"])
    return attribute is not None and attribute.value != rule.get("allowed")


def _attribute_contains(node: ir.Node, rule: Mapping[str, Any]) -> bool:
    attribute = node.attributes.get(rule["attribute"])
    return attribute is not None and rule["text"] in str(attribute.value)


def _dtype_not(node: ir.Node, rule: Mapping[str, Any]) -> bool:
    value = node.inputs[0]
    return value is not None and value.dtype is not None and value.dtype.name not in rule["allowed"]


_CHECKS = {
    "any": _any,
    "k_above": _k_above,
    "attribute_set": _attribute_set,
    "attribute_contains": _attribute_contains,
    "dtype_not": _dtype_not,
}


def _opset_above(model: ir.Model, rule: Mapping[str, Any]) -> str:
    imports = model.graph.opset_imports
    opset = max(imports.get("", 0), imports.get("ai.onnx", 0))
    return f"opset {opset}" if opset not in range(rule["limit"] + 1) else ""


def _functions(model: ir.Model, rule: Mapping[str, Any]) -> str:
    return f"function {next(iter(model.functions))[1]}" if model.functions else ""


def _custom(model: ir.Model, rule: Mapping[str, Any]) -> str:
    for _, node in _nodes(model):
        if node.domain not in ("", "ai.onnx") and node.op_identifier() not in model.functions:
            return f"{node.domain}.{node.op_type}"
    return ""


def _dtype_held(model: ir.Model, rule: Mapping[str, Any]) -> str:
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [output for _, node in _nodes(model) for output in node.outputs]
    held = any(value.dtype is not None and value.dtype.name == rule["dtype"] for value in values)
    return str(rule["dtype"]).lower() if held else ""


# Each returns the property of the graph that breaks the rule, or an empty string.
_GRAPH_CHECKS = {
    "opset_above": _opset_above,
    "functions": _functions,
    "custom": _custom,
    "holds": _dtype_held,
}
