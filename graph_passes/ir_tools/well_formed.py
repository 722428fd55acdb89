"""Refuses graphs that no runtime could run, so that every pass may rely on what ONNX promises of a node."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import onnx_ir as ir

from ...errors import GraphError, first_line

# Shape inference counts letters in a table, and reads and writes beside it for any other character.
_EQUATION = re.compile("[A-Za-z .,>-]*")
_READ_BYTES = 1 << 24  # Tensors in the file up to here are looked at; weights of that size are read much later.


def refuse_malformed(model: ir.Model) -> None:
    """Check names, the inputs, outputs and attributes of standard operators, and the tensors in the file.

    Raises:
        GraphError: names the node or tensor that is wrong.
    """
    opset = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 0))
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                _check_tensor(value.const_value, f"tensor {value.name!r}")
        for value in graph.outputs:
            if value.producer() is None and not (value.is_graph_input() or value.is_initializer()):
                raise _wrong(f"its output {value.name!r} is computed by nothing")
    for node in model.graph.all_nodes():
        _check_node(node, opset)
    for function in model.functions.values():
        for node in function.all_nodes():
            _check_node(node, function.opset_imports.get("", opset))


class _Signature(NamedTuple):
    """What an operator of an opset takes and gives: least and most, and the types of attributes by name."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: dict[str, int]
    required: frozenset[str]


@functools.lru_cache(maxsize=4096)
def _signature(name: str, opset: int) -> _Signature | None:
    import onnx

    try:
        schema = onnx.defs.get_schema(name, max_inclusive_version=opset, domain="")
    except onnx.defs.SchemaError:
        return None
    return _Signature(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        {key: int(attribute.type.value) for key, attribute in schema.attributes.items()},  # type: ignore[attr-defined]
        frozenset(key for key, attribute in schema.attributes.items() if attribute.required),
    )


def _check_node(node: ir.Node, opset: int) -> None:
    texts = (node.name, node.op_type, node.domain, *(value.name for value in node.outputs))
    if not all(text is None or isinstance(text, str) for text in texts):
        raise _wrong(f"a node {node.op_type!r} has a name that is no text")
    what = f"node {node.name or node.op_type!r}"
    if not node.outputs:
        raise _wrong(f"{what} has no output")
    for value in node.inputs:
        if value is not None and value.producer() is None and not (value.is_graph_input() or value.is_initializer()):
            raise _wrong(f"{what} reads {value.name!r}, which nothing computes")
    for attribute in node.attributes.values():
        _check_attribute(attribute, f"attribute {attribute.name!r} of {what}")
    signature = _signature(node.op_type, opset) if node.domain in ("", "ai.onnx") and opset > 0 else None
    if signature is None:
        return
    for kind, number, (least, most) in (
        ("inputs", len(node.inputs), signature.inputs),
        ("outputs", len(node.outputs), signature.outputs),
    ):
        if not least <= number <= most:
            raise _wrong(f"{what} has {number} {kind}, and {node.op_type} has {_range(least, most)}")
    for attribute in node.attributes.values():
        if int(attribute.type) != signature.attributes.get(attribute.name, int(attribute.type)):
            raise _wrong(f"attribute {attribute.name!r} of {what} is of the type {attribute.type.name}")
        # Custom operators may hold any bytes there.
        if attribute.type == ir.AttributeType.STRING and isinstance(attribute.value, bytes):
            raise _wrong(f"attribute {attribute.name!r} of {what} is {attribute.value[:40]!r}, which is no text")
    missing = signature.required - node.attributes.keys()
    if missing:
        raise _wrong(f"{what} has no attribute {sorted(missing)[0]!r}, which {node.op_type} needs")
    equation = node.attributes.get("equation")
    if node.op_type == "Einsum" and equation and not equation.is_ref() and not _EQUATION.fullmatch(equation.value):
        raise _wrong(f"the equation of {what} is {equation.value[:80]!r}")


def _check_attribute(attribute: ir.Attr, what: str) -> None:
    if attribute.is_ref():
        return
    if attribute.type == ir.AttributeType.UNDEFINED:
        raise _wrong(f"{what} has no type")
    if attribute.type == ir.AttributeType.TENSOR:
        _check_tensor(attribute.value, what)
    elif attribute.type == ir.AttributeType.TENSORS:
        for tensor in attribute.value:
            _check_tensor(tensor, what)


def _check_tensor(tensor: ir.TensorProtocol, what: str) -> None:
    shape = tuple(tensor.shape)
    if any(not isinstance(dim, int) or dim < 0 for dim in shape):
        raise _wrong(f"{what} has the shape {list(shape)}")
    if tensor.dtype == ir.DataType.UNDEFINED:
        raise _wrong(f"{what} has no type")
    if tensor.dtype == ir.DataType.STRING and isinstance(tensor, ir.ExternalTensor):
        raise _wrong(f"{what} holds texts, and its data is in a file of its own, where only numbers can be")
    if tensor.dtype == ir.DataType.STRING or isinstance(tensor, ir.ExternalTensor) or tensor.nbytes > _READ_BYTES:
        return
    try:
        held = tensor.numpy().size
    except Exception as error:
        # onnx and numpy raise errors of many kinds.
        raise _wrong(f"{what} cannot be read: {first_line(error, 200)}") from error
    if held != tensor.size:
        raise _wrong(f"{what} holds {held} values, and its shape {list(shape)} needs {tensor.size}")


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}" if most < 1000 else f"{least} or more"


def _wrong(what: str) -> GraphError:
    return GraphError(f"the graph is damaged: {what}", fix="Export the ONNX file again.")
