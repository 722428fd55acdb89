"""Three forms of one graph.

portable  a compressor is one node of domain ``tokexport`` whose function holds its body: what `insert` makes and ONNX
          Runtime runs as it is.
plugin    the function is gone and the node is called ``Tokexport<Method>``: TensorRT takes the plugin of that name. A
          fixed method (a Gather, a Reshape or a pooling) needs none: its body is inlined here too.
inlined   standard operators only, for parsers that know neither functions nor our plugins.

Both conversions return a new model that shares its weights with the original, and read none of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from ..errors import GraphError, RequestError
from .compressors import Case, compressor_class, make, names
from .compressors.base import plugin_attributes
from .ir_tools.builder import DTYPE_NAMES, OPSET

DOMAIN = "tokexport"
METHOD_KEY, KEEP_KEY, PARAMS_KEY = "tokexport.method", "tokexport.keep", "tokexport.params"
GRID_KEY = "tokexport.grid"

# Up to 10.9 TensorRT's parser reads the namespace from the attribute alone; from 10.10 the node's domain counts too,
# and TensorRT-RTX 1.7 finds no plugin registered under another name when both are given. Every version finds the plugin
# if the domain, the attribute and the creator's namespace are the same name. A domain other than the standard one also
# keeps onnx.checker from refusing the operator as an unknown standard operator.
PLUGIN_NAMESPACE = DOMAIN
PLUGIN_VERSION = "1"
_PLUGIN_ATTRIBUTES = ("keep", "plugin_version", "plugin_namespace")

_INT32 = range(-(2**31), 2**31)

_PORTABLE_NAME = re.compile(r"(Tokexport[A-Z][A-Za-z0-9]*)_[0-9a-f]{8}")

# Same signature in the schemas of both opsets, other meaning: scale and bias per group up to 20, per channel from 21.
_REDEFINED = {"GroupNormalization"}


def plugin_name(method: str) -> str:
    """``Tokexport<Method>``: TokexportPixelUnshuffle for pixel_unshuffle."""
    parts = method.replace("-", "_").split("_")
    return f"Tokexport{''.join(part[:1].upper() + part[1:] for part in parts)}"


def compressor_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """The compressors of a model, in its graph, its subgraphs and functions other than compressors."""
    foreign = [function for function in model.functions.values() if function.domain != DOMAIN]
    bodies: list[ir.Graph | ir.Function] = [model.graph, *foreign]
    for body in bodies:
        yield from (node for node in ir.traversal.RecursiveGraphIterator(body) if node.domain == DOMAIN)


def without_plugin(model: ir.Model) -> list[str]:
    """The methods in a portable model that neither have a TensorRT plugin nor are fixed: with any, no plugin form.

    A plugin reads keys in the type of the tokens alone, so one that must read others counts too.
    """
    found = set()
    for node in compressor_nodes(model):
        method = node.metadata_props.get(METHOD_KEY, "")
        if method in names() and (not compressor_class(method).method.plugin_form or _has_wider_keys(node)):
            found.add(method)
    return sorted(found)


def _has_wider_keys(node: ir.Node) -> bool:
    """Whether a compressor reads keys in float32 beside tokens in half precision (`emit_signal`)."""
    try:
        params = json.loads(node.metadata_props.get(PARAMS_KEY, "{}"))
        signals = make(node.metadata_props[METHOD_KEY], params).signals()
    except (ValueError, TypeError, RequestError):
        return False  # What is wrong with it is said where its attributes are made.
    types = {name: value.dtype for name, value in zip(signals, node.inputs[1:]) if value is not None}
    tokens = node.inputs[0]
    return tokens is not None and types.get("keys", tokens.dtype) != tokens.dtype


def no_plugin(method: str) -> RequestError:
    """The error that a method has no plugin, or none for what it reads."""
    has = compressor_class(method).method.plugin_form
    return RequestError(
        f"method {method!r} has no TensorRT plugin"
        + (" for float32 keys beside tokens in half precision" if has else ""),
        where="plugin form",
        fix="Use the portable or the inlined form: TensorRT builds them without a plugin.",
    )


def to_plugin(model: ir.Model) -> ir.Model:
    """The form that TensorRT runs with our plugins.

    The node of a fixed method is replaced by its body, as in `to_inlined`. Every other compressor node is renamed
    ``Tokexport<Method>`` and carries as attributes K (``keep``), each parameter of its method (booleans as integers,
    None left out), ``plugin_version`` and ``plugin_namespace``. What a parameter leaves open is resolved: methods on a
    grid get it as integers [frames, height, width]. The functions are stripped: up to TensorRT 10.6 a function wins
    over a plugin. Types and shapes of the outputs stay in the graph, because shape inference stops at an operator
    without a body.

    Raises:
        RequestError: a method has neither a plugin nor a fixed body.
        GraphError: there is no compressor in portable form, its metadata is damaged or of a method that is not
            installed, or its tokens or an output have no type or shape.
    """
    result = model.clone()
    nodes = list(compressor_nodes(result))
    if not nodes:
        raise GraphError(
            "there is no compressor in portable form in this model",
            where=f"graph {model.graph.name!r}",
            fix="Insert one first: tokexport.compress(model, method=...).",
        )
    for method in without_plugin(model):
        raise no_plugin(method)
    fixed = {node.op_identifier() for node in nodes if _is_fixed(node)}
    for node in nodes:
        if node.op_identifier() in fixed:
            continue
        attributes = _plugin_attributes(node)
        _require_types(node)
        name = _PORTABLE_NAME.fullmatch(node.op_type)
        if name is None:
            raise _damaged(node, f"its operator {node.op_type!r} is not Tokexport<Method>_<8 hex digits>")
        node.op_type = name[1]
        node.attributes.clear()
        node.attributes.update((attribute.name, attribute) for attribute in attributes)
    _inline(result, fixed)
    for identifier in [key for key in result.functions if key[0] == DOMAIN]:
        del result.functions[identifier]
    return result


def to_inlined(model: ir.Model) -> ir.Model:
    """The form with standard operators only: every call of a function is replaced by its body.

    The nodes of a body inherit the metadata of the call, and their names and those of their values start with the
    function's. A model without functions is returned unchanged.

    Raises:
        GraphError: one of a body's operators means something else in the model's opset, or a compressor has
            no body (the plugin form cannot be inlined).
    """
    result = model.clone()
    _inline(result, {*result.functions})
    result.functions.clear()  # those that nothing calls are still there
    for node in ir.traversal.RecursiveGraphIterator(result.graph):
        if node.domain == DOMAIN:
            raise GraphError(
                f"compressor {node.op_type} has no body",
                where=f"graph {model.graph.name!r}, node {node.name!r}",
                fix="Inline the portable form of the graph; the plugin form has no bodies.",
            )
    return result


def _inline(model: ir.Model, which: set[ir.OperatorIdentifier]) -> None:
    """Replace calls of these functions by their bodies, in place; names in a body start with the function's."""
    from onnx_ir.passes.common import InlinePass, RemoveUnusedOpsetsPass

    imports = model.graph.opset_imports
    for function in (model.functions[identifier] for identifier in which):
        _adopt_opset(function, imports.get("", imports.get("ai.onnx", OPSET)))
        for node in ir.traversal.RecursiveGraphIterator(function):
            node.name = f"{function.name}/{node.name}"
            for output in node.outputs:
                output.name = f"{function.name}/{output.name}" if output.name else output.name
    InlinePass(criteria=lambda function: function.identifier() in which)(model)
    RemoveUnusedOpsetsPass()(model)


def _is_fixed(node: ir.Node) -> bool:
    """Whether a compressor's slots read the same tokens whatever these hold, so that it needs no plugin."""
    method = node.metadata_props.get(METHOD_KEY, "")
    return method in names() and compressor_class(method).method.fixed


def _plugin_attributes(node: ir.Node) -> list[ir.Attr]:
    tokens = node.inputs[0]
    if tokens is None or tokens.shape is None or tokens.dtype is None:
        raise _damaged(node, "the tokens it reads have no type and shape")
    _, count, dim = tokens.shape
    if not isinstance(count, int) or not isinstance(dim, int):
        raise _damaged(node, f"the tokens it reads have no fixed shape, but {list(tokens.shape)}")
    try:
        compressor = make(node.metadata_props[METHOD_KEY], json.loads(node.metadata_props[PARAMS_KEY]))
        keep, grid = int(node.metadata_props[KEEP_KEY]), json.loads(node.metadata_props.get(GRID_KEY, "null"))
        case = Case(count, dim, keep, DTYPE_NAMES[tokens.dtype], None if grid is None else tuple(grid))
        compressor.check(case)
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(node, f"its metadata cannot be read ({error})") from None
    except RequestError as error:
        raise _damaged(node, error.what) from None
    attributes = [ir.AttrInt64("keep", keep)]
    for name, value in plugin_attributes(compressor, case).items():
        if name in _PLUGIN_ATTRIBUTES:
            raise _damaged(node, f"a parameter is called {name!r}, a name that every plugin already uses")
        if value is not None:
            attributes.append(_attribute(node, name, value))
    attributes.append(ir.AttrString("plugin_version", PLUGIN_VERSION))
    attributes.append(ir.AttrString("plugin_namespace", PLUGIN_NAMESPACE))
    return attributes


def _attribute(node: ir.Node, name: str, value: Any) -> ir.Attr:
    if isinstance(value, int) and not _INT32.start <= value < _INT32.stop:
        raise _damaged(node, f"parameter {name!r} is {value}, and TensorRT's parser reads 32 bits of an integer")
    if isinstance(value, bool | int):
        return ir.AttrInt64(name, int(value))
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    if isinstance(value, str):
        return ir.AttrString(name, value)
    if isinstance(value, list | tuple) and value and all(isinstance(item, bool | int) for item in value):
        return ir.AttrInt64s(name, [int(item) for item in value])
    if isinstance(value, list | tuple) and value and all(isinstance(item, int | float) for item in value):
        return ir.AttrFloat32s(name, [float(item) for item in value])
    raise _damaged(node, f"parameter {name!r} is {value!r}, which a plugin's attribute cannot hold")


def _require_types(node: ir.Node) -> None:
    for output in node.outputs:
        if output.name and (output.dtype is None or output.shape is None):
            raise _damaged(node, f"its output {output.name!r} has no type and shape")


def _damaged(node: ir.Node, what: str) -> GraphError:
    return GraphError(
        f"compressor node {node.name!r} cannot become a plugin: {what}",
        where=f"operator {node.op_type}",
        fix="Insert the compressor again with this version of tokexport.",
    )


def _adopt_opset(function: ir.Function, opset: int) -> None:
    """Set a body's opset to the model's, if each of its operators means the same in both."""
    own = function.opset_imports.get("", opset)
    for node in ir.traversal.RecursiveGraphIterator(function):
        if own != opset and node.domain == "" and not _same_meaning(node.op_type, own, opset):
            raise GraphError(
                f"the body of {function.name} is written for opset {own}, the model has opset {opset}, and "
                f"{node.op_type} differs between them",
                where=f"function {function.name}, node {node.name!r}",
                fix=f"Convert the model first: onnx.version_converter.convert_version(model, {own}).",
            )
    function.opset_imports[""] = opset


def _same_meaning(op_type: str, old: int, new: int) -> bool:
    """Whether a node of opset `old` is valid unchanged in opset `new`: only types and options were added."""
    import onnx

    try:
        before = onnx.defs.get_schema(op_type, max_inclusive_version=old)
        after = onnx.defs.get_schema(op_type, max_inclusive_version=new)
    except onnx.defs.SchemaError:
        return False
    if before.since_version == after.since_version:
        return True
    if old > new or op_type in _REDEFINED:
        return False
    return (
        [p.name for p in before.inputs] == [p.name for p in after.inputs][: len(before.inputs)]
        and before.min_input == after.min_input
        and len(before.outputs) <= len(after.outputs)
        and all(_same_attribute(attribute, after.attributes.get(name)) for name, attribute in before.attributes.items())
        and all(not attribute.required for name, attribute in after.attributes.items() if name not in before.attributes)
    )


def _same_attribute(before: Any, after: Any) -> bool:
    return (
        after is not None
        and before.type == after.type
        and before.required == after.required
        and before.default_value == after.default_value
    )
