"""Add the nodes of one compressor to a graph; nothing reads them yet, see `rewire`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import onnx_ir as ir

from ..blame import blamed
from ..compressors.base import OUTPUTS, Case, Compressor, parameters, width
from ..compressors.blocks.texts import TEXT, text_length
from ..forms import DOMAIN, GRID_KEY, KEEP_KEY, METHOD_KEY, PARAMS_KEY, plugin_name
from ..ir_tools.builder import DTYPES, OPSET, Builder
from ..ir_tools.extract import values_by_name
from ..ir_tools.model_io import standard_opset
from ..ir_tools.walk import unique_name
from .compose import COMPOSED, emit_compose
from .inserted import Read
from .plan import Insertion
from .signals import read_signal

_TYPES = dict(zip(COMPOSED, (ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.INT64)))


@dataclass(frozen=True)
class Emitted:
    """What was added.

    Attributes:
        node: the compressor's.
        slots: the value that takes the place of the tokens, [B, prefix + K, D'] or [prefix + K, D'] as they are.
        outputs: tokens, kept_indices, sizes, assignment -> the output of the node.
        composed: kept_indices, sizes, assignment -> the value that is about the tokens of the first step.
        reads: signal -> how the node reads it; not a text, which is an input of the graph.
        unsorted: whether the nodes were put after a reader of the tokens, so that rewiring needs a sort.
    """

    node: ir.Node
    slots: ir.Value
    outputs: Mapping[str, ir.Value]
    composed: Mapping[str, ir.Value]
    reads: Mapping[str, Read]
    unsorted: bool


def emit(model: ir.Model, insertion: Insertion) -> Emitted:
    """Add signals, weights, function and node, the composition with the step before, and the prefix tokens.

    Args:
        model: the graph that `insertion` was planned for.
        insertion: what to add.

    Raises:
        RequestError, GraphError: as `signals.read_signal`.
    """
    graph, after = model.graph, insertion.after
    signals, reads = _signals(model, insertion)
    function = body(model, insertion.compressor, insertion.case, insertion.learned)
    taken = {*values_by_name(graph), *insertion.outputs.values()}
    b = Builder(unique_name(f"{insertion.tensor}.{insertion.compressor.method.name}", taken) + ".")
    whole = _with_batch(b, insertion)
    tokens = _without_prefix(b, insertion, whole)
    learned = _initializers(graph, insertion, b.prefix)
    node = _node(b, insertion, function.name, [tokens, *signals, *learned])
    outputs = dict(zip(OUTPUTS, node.outputs))
    composed, first = {name: outputs[name] for name in COMPOSED}, {}
    if after is not None:
        values = values_by_name(graph)
        first = {name: values[after.composed_outputs[name]] for name in COMPOSED}
        composed = _composed(b, insertion, first, outputs)
    for name, wanted in insertion.outputs.items():
        composed[name].name = wanted
    slots = _without_batch(b, insertion, _with_prefix(b, insertion, whole, outputs["tokens"]))
    unsorted = _place(graph, b.nodes, [insertion.tokens, *signals, *first.values()], insertion.readers)
    return Emitted(node, slots, outputs, composed, reads, unsorted)


def function_name(compressor: Compressor, case: Case, opset: int = OPSET) -> str:
    """``Tokexport<Method>_<8 hex>``: one name for each body, because two bodies of one name are refused or confused."""
    facts = {**asdict(case), "opset": opset, "params": parameters(compressor)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{plugin_name(compressor.method.name)}_{digest[:8]}"


def _signals(model: ir.Model, insertion: Insertion) -> tuple[list[ir.Value], dict[str, Read]]:
    length = text_length(insertion.compressor)
    values: list[ir.Value] = []
    reads: dict[str, Read] = {}
    for name in insertion.compressor.signals():
        value, how = read_signal(model, insertion.seam, name, length, insertion.after)
        values.append(value)
        if name != TEXT:
            reads[name] = how
    return values, reads


def body(model: ir.Model, compressor: Compressor, case: Case, learned: Iterable[str] = ()) -> ir.Function:
    """The body of a compressor as a function of `model`: the one that is there, or a new one.

    Args:
        model: the function is added to it.
        compressor: with its parameters.
        case: the shapes that it is built for.
        learned: names of its weights, which it reads behind the signals.
    """
    opset = standard_opset(model)
    name = function_name(compressor, case, opset)
    if (DOMAIN, name, "") in model.functions:
        return model.functions[DOMAIN, name, ""]
    b = Builder()
    tokens = ir.Value(name="input.tokens")
    further = {extra: ir.Value(name=f"input.{extra}") for extra in (*compressor.signals(), *learned)}
    with blamed(compressor, "onnx"):
        result = compressor.onnx(b, case, tokens, **further)
        outputs = {output: getattr(result, output) for output in OUTPUTS}
    function = b.function(DOMAIN, name, [tokens, *further.values()], outputs)
    # Operators of our bodies only gained types since opset 18, but onnx.checker refuses a function that imports an
    # operator in another version than its model does.
    function.opset_imports[""] = opset
    model.functions[function.identifier()] = function
    return function


def describe(node: ir.Node, compressor: Compressor, case: Case) -> None:
    """Write into the metadata of a compressor's node what other forms of the graph are made from."""
    node.metadata_props[METHOD_KEY] = compressor.method.name
    node.metadata_props[KEEP_KEY] = str(case.keep)
    node.metadata_props[PARAMS_KEY] = json.dumps(parameters(compressor))
    if case.grid is not None:
        node.metadata_props[GRID_KEY] = json.dumps(case.grid)


def _initializers(graph: ir.Graph, insertion: Insertion, prefix: str) -> list[ir.Value]:
    """The weights of a compressor, in the dtype of the tokens."""
    dtype = DTYPES[insertion.case.dtype]
    values = []
    for name, array in insertion.learned.items():
        tensor = ir.tensor(array.astype(dtype.numpy()), name=f"{prefix}{name}")
        value = ir.Value(name=tensor.name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
        graph.register_initializer(value)
        values.append(value)
    return values


def _node(b: Builder, insertion: Insertion, op_type: str, inputs: Sequence[ir.Value]) -> ir.Node:
    """The compressor's node, its outputs named and typed."""
    case, compressor = insertion.case, insertion.compressor
    node = ir.Node(DOMAIN, op_type, inputs, num_outputs=len(OUTPUTS), name=b.prefix.rstrip("."))
    describe(node, compressor, case)
    shapes = {
        "tokens": [case.keep, width(compressor, case)],
        "kept_indices": [case.keep],
        "sizes": [case.keep],
        "assignment": [case.tokens],
    }
    for name, output in zip(OUTPUTS, node.outputs):
        output.name = f"{b.prefix}{name}"
        output.type = ir.TensorType(_TYPES[name]) if name in _TYPES else insertion.tokens.type
        output.shape = ir.Shape([_batch(insertion), *shapes[name]])
    b.nodes.append(node)
    return node


def _composed(
    b: Builder, insertion: Insertion, first: Mapping[str, ir.Value], outputs: Mapping[str, ir.Value]
) -> dict[str, ir.Value]:
    """The outputs of the node about the tokens of the first step."""
    merges = insertion.compressor.method.merges
    composed = emit_compose(b, first, outputs, insertion.case.keep, merges=merges)
    for name, output in composed.items():
        output.name, output.type = f"{b.prefix}composed.{name}", ir.TensorType(_TYPES[name])
        output.shape = first[name].shape if name == "assignment" else outputs[name].shape
    return composed


def _with_batch(b: Builder, insertion: Insertion) -> ir.Value:
    """The seam's tensor [B, prefix + N, D]."""
    value = insertion.tokens
    if insertion.seam.rank == 3:
        return value
    rows = b.op("Unsqueeze", value, [0])
    rows.type, rows.shape = value.type, ir.Shape([1, *(value.shape or ())])
    return rows


def _without_batch(b: Builder, insertion: Insertion, slots: ir.Value) -> ir.Value:
    """The slots in the rank of the seam's tensor."""
    if insertion.seam.rank == 3:
        return slots
    flat = b.op("Squeeze", slots, [0])
    flat.type, flat.shape = slots.type, ir.Shape([*(slots.shape or ())][1:])
    return flat


def _without_prefix(b: Builder, insertion: Insertion, value: ir.Value) -> ir.Value:
    """The tokens [B, N, D] that are compressed."""
    case, prefix = insertion.case, insertion.seam.prefix
    if not prefix:
        return value
    tokens = b.op("Slice", value, [prefix], [np.iinfo(np.int64).max], [1])
    tokens.type, tokens.shape = value.type, ir.Shape([_batch(insertion), case.tokens, case.dim])
    return tokens


def _with_prefix(b: Builder, insertion: Insertion, value: ir.Value, slots: ir.Value) -> ir.Value:
    """The slots after the prefix tokens, which pass by the compressor."""
    case, prefix = insertion.case, insertion.seam.prefix
    if not prefix:
        return slots
    head = b.op("Slice", value, [0], [prefix], [1])
    head.type, head.shape = value.type, ir.Shape([_batch(insertion), prefix, case.dim])
    whole = b.op("Concat", head, slots, axis=1)
    whole.type, whole.shape = value.type, ir.Shape([_batch(insertion), prefix + case.keep, case.dim])
    return whole


def _batch(insertion: Insertion) -> int | ir.SymbolicDim | None:
    shape = insertion.tokens.shape
    return 1 if insertion.seam.rank == 2 else shape[0] if shape is not None else None


def _place(graph: ir.Graph, nodes: Sequence[ir.Node], inputs: Sequence[ir.Value], readers: frozenset[ir.Node]) -> bool:
    """Insert `nodes` after the last of their `inputs`; whether one of `readers` then comes before them."""
    remaining = {value.producer() for value in inputs} - {None}
    if not remaining:
        graph.insert_before(graph[0], nodes) if len(graph) else graph.extend(nodes)
        return False
    anchor, overtaken = None, False
    for node in graph:
        overtaken = overtaken or (node in readers and bool(remaining))
        if node in remaining:
            remaining.discard(node)
            anchor = node
    assert anchor is not None
    graph.insert_after(anchor, nodes)
    return overtaken
