"""Put a compressor at a seam, in portable form: one node with a local function of standard operators as its body.

Stages: check the request -> prove the rest of the graph (`rest`, read-only) -> emit signals, node and function ->
rewire what read the seam -> apply the rewrites of the proof -> size bias. A compressor may come after another (see
`sequence`): then its outputs are composed with those of the one before (`compose`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import onnx_ir as ir

from ...errors import GraphError, RequestError, nearest
from ..compressors.base import OUTPUTS, Case, Compressor, parameters, weights, width
from ..compressors.blocks.texts import TEXT, text_length
from ..forms import DOMAIN, GRID_KEY, KEEP_KEY, METHOD_KEY, PARAMS_KEY, plugin_name
from ..ir_tools.builder import DTYPES, OPSET, Builder
from ..ir_tools.extract import values_by_name
from ..ir_tools.input_shapes import fix_of
from ..ir_tools.model_io import ensure_opset, standard_opset
from ..ir_tools.walk import unique_name
from ..resize.plan import plan_downstream
from ..seams.seam import Seam
from .compose import COMPOSED, emit_compose
from .inserted import Inserted, Read
from .placeholder import read_downstream, remove_unread
from .weighted_pool import weigh_pools

EXTRA_OUTPUTS = OUTPUTS[1:]
_TYPES = dict(zip(OUTPUTS[1:], (ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.INT64)))


def insert(
    model: ir.Model,
    seam: Seam,
    compressor: Compressor,
    keep: int,
    *,
    outputs: Sequence[str] | Mapping[str, str] = EXTRA_OUTPUTS,
    size_bias: bool = True,
    after: Inserted | None = None,
    until: str = "",
) -> Inserted:
    """Edit `model` in place; if this raises, nothing was edited.

    Everything that read the seam's tensor, or its placeholder, reads the compressed tokens. Where that tensor is a
    graph output, the output keeps its name and becomes the compressed one.

    Args:
        model: opset 18 or more.
        seam: a valid one of this graph.
        compressor: with its parameters.
        keep: K, prefix tokens not counted.
        outputs: which of kept_indices [B, K] int64, sizes [B, K] float32, assignment [B, N] int64 become graph
            outputs; a mapping gives them other names.
        size_bias: at a seam ``encoder_layer:<i>``, add log(sizes) to the attention of the layers behind, where the
            method merges, or one before it does.
        after: the step that this one comes after; `seam` is then as `sequence.follow` gives it, and outputs and size
            bias are about the tokens of the first step.
        until: name of the value at which the next step will sit: attention behind it is left to that.

    Raises:
        RequestError: an invalid seam, a count or signal the method does not take there, an output name that is taken,
            slots with another number of channels than what reads them takes, a tensor ``text`` that is none.
        GraphError: a dynamic token axis, or a graph that cannot live with fewer tokens.
    """
    ensure_opset(model)
    names = _output_names(model, outputs)
    value = _seam_value(model, seam)
    _refuse_missing(model, compressor, seam)
    if not compressor.method.positions and seam.name.startswith(("encoder_layer:", "decoder_layer:")):
        raise RequestError(
            f"slots of {compressor.method.name} have no positions, and the layers behind seam {seam.name} need them",
            fix="Put it at encoder_output, projector_input or projector_output.",
        )
    case = Case(seam.tokens, seam.dim, keep, seam.dtype, seam.grid)
    compressor.check(case)
    learned = weights(compressor, case)
    read_downstream(model, seam, compressor, case)
    merges = compressor.method.merges or (after is not None and after.merges)
    weigh = size_bias and merges
    bias = weigh and seam.name.startswith("encoder_layer:")
    if weigh:
        # Whether a bias can be added shows in the finished graph only: try it on a copy, which shares the weights.
        copy = model.clone()
        _edit(
            copy,
            seam,
            compressor,
            case,
            learned,
            names,
            values_by_name(copy.graph)[seam.tensor],
            bias,
            after,
            until,
            weigh,
        )
    return _edit(model, seam, compressor, case, learned, names, value, bias, after, until, weigh)


def _edit(
    model: ir.Model,
    seam: Seam,
    compressor: Compressor,
    case: Case,
    learned: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    value: ir.Value,
    bias: bool,
    after: Inserted | None,
    until: str,
    weigh: bool,
) -> Inserted:
    from ..seams.find import refresh_seams
    from .signals import read_signal
    from .size_bias import add_size_bias

    graph, prefix = model.graph, seam.prefix
    end = values_by_name(graph)[until] if until else None
    behind, slot_width = read_downstream(model, seam, compressor, case), width(compressor, case)
    plan = plan_downstream(model, behind, 1, prefix + case.tokens, prefix + case.keep, prefix=prefix)
    # Behind the last layer nothing attends any more, so there is nothing that sizes could weigh.
    bias = bias and plan.attends(model, end)
    uses = behind.uses()
    before = set(graph)
    signals: list[ir.Value] = []
    reads: dict[str, Read] = {}
    for name in compressor.signals():
        signal, how = read_signal(model, seam, name, text_length(compressor), after)
        signals.append(signal)
        reads |= {name: how} if name != TEXT else {}
    function = _function(model, compressor, case, learned)

    taken = {*values_by_name(graph), *names.values()}
    tensor = value.name or seam.tensor
    b = Builder(unique_name(f"{tensor}.{compressor.method.name}", taken) + ".")
    batch = value.shape[0] if value.shape is not None else None
    last = np.iinfo(np.int64).max
    tokens = b.op("Slice", value, [prefix], [last], [1]) if prefix else value
    inputs = [tokens, *signals, *_initializers(graph, case, learned, b.prefix)]
    node = ir.Node(DOMAIN, function.name, inputs, num_outputs=len(OUTPUTS), name=b.prefix.rstrip("."))
    node.metadata_props[METHOD_KEY] = compressor.method.name
    node.metadata_props[KEEP_KEY] = str(case.keep)
    node.metadata_props[PARAMS_KEY] = json.dumps(parameters(compressor))
    if case.grid is not None:
        node.metadata_props[GRID_KEY] = json.dumps(case.grid)
    counts = {"tokens": case.keep, "kept_indices": case.keep, "sizes": case.keep, "assignment": case.tokens}
    node_outputs = dict(zip(OUTPUTS, node.outputs))
    for name, output in node_outputs.items():
        output.name = f"{b.prefix}{name}"
        output.type = ir.TensorType(_TYPES[name]) if name in _TYPES else value.type
        output.shape = ir.Shape([batch, counts[name], *([slot_width] if name == "tokens" else [])])
    b.nodes.append(node)
    shorter = node.outputs[0]
    composed_outputs, first = {name: node_outputs[name] for name in COMPOSED}, {}
    if after is not None:
        values = values_by_name(graph)
        first = {name: values[after.composed_outputs[name]] for name in COMPOSED}
        composed_outputs = emit_compose(b, first, node_outputs, case.keep, merges=compressor.method.merges)
        for name, output in composed_outputs.items():
            output.name, output.type = f"{b.prefix}total.{name}", ir.TensorType(_TYPES[name])
            output.shape = first[name].shape if name == "assignment" else node_outputs[name].shape
    for name, wanted in names.items():
        composed_outputs[name].name = wanted
    if prefix:
        tokens.type, tokens.shape = value.type, ir.Shape([batch, case.tokens, case.dim])
        head = b.op("Slice", value, [0], [prefix], [1])
        head.type, head.shape = value.type, ir.Shape([batch, prefix, case.dim])
        shorter = b.op("Concat", head, node.outputs[0], axis=1)
        shorter.type, shorter.shape = value.type, ir.Shape([batch, prefix + case.keep, case.dim])
    late = _place(graph, b.nodes, [value, *signals, *first.values()], before)

    for use in uses:
        use.node.replace_input_with(use.idx, shorter)
    for i, output in enumerate(graph.outputs):
        if output is behind:
            graph.outputs[i] = shorter
            shorter.name, behind.name = behind.name, unique_name(f"{tensor}.uncompressed", taken)
            after = _renamed(after, shorter.name or "", behind.name)
    if behind is not value:
        remove_unread(graph, behind)
    if late:
        graph.sort()
    graph.outputs.extend(composed_outputs[name] for name in names)
    graph.opset_imports.setdefault(DOMAIN, 1)
    rewritten = plan.apply(model)
    rewritten += weigh_pools(model, plan.pools, composed_outputs["sizes"], end) if weigh else []
    biased = add_size_bias(model, shorter, composed_outputs["sizes"], prefix, end) if bias else []
    refresh_seams(model)
    return Inserted(
        seam=seam,
        compressor=compressor,
        keep=case.keep,
        node_name=node.name or "",
        function_name=function.name,
        rewritten=rewritten,
        outputs=dict(names),
        tokens_in=value.name or "",
        tokens_out=shorter.name or "",
        node_outputs={name: output.name or "" for name, output in node_outputs.items()},
        composed_outputs={name: output.name or "" for name, output in composed_outputs.items()},
        reads=reads,
        biased=biased,
        token_axes=tuple(plan.axes.get(end, ())) if end is not None else (),
        before=after,
    )


def _renamed(step: Inserted | None, old: str, new: str) -> Inserted | None:
    """A step whose tokens gave up their name to those of the step behind it."""
    if step is None or step.tokens_out != old:
        return step
    node_outputs = {name: new if value == old else value for name, value in step.node_outputs.items()}
    return replace(step, tokens_out=new, node_outputs=node_outputs)


def function_name(compressor: Compressor, case: Case, opset: int = OPSET) -> str:
    """``Tokexport<Method>_<8 hex>``: one name for each body, because two bodies of one name are refused or confused."""
    facts = {**asdict(case), "opset": opset, "params": parameters(compressor)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{plugin_name(compressor.method.name)}_{digest[:8]}"


def _function(model: ir.Model, compressor: Compressor, case: Case, learned: Iterable[str]) -> ir.Function:
    """The body for this case: the one that is there, or a new one."""
    opset = standard_opset(model)
    name = function_name(compressor, case, opset)
    if (DOMAIN, name, "") in model.functions:
        return model.functions[DOMAIN, name, ""]
    b = Builder()
    tokens = ir.Value(name="input.tokens")
    beside = {extra: ir.Value(name=f"input.{extra}") for extra in (*compressor.signals(), *learned)}
    result = compressor.onnx(b, case, tokens, **beside)
    outputs = {output: getattr(result, output) for output in OUTPUTS}
    function = b.function(DOMAIN, name, [tokens, *beside.values()], outputs)
    # Operators of our bodies only gained types since opset 18, but onnx.checker refuses a function that imports an
    # operator in another version than its model does.
    function.opset_imports[""] = opset
    model.functions[function.identifier()] = function
    return function


def _initializers(graph: ir.Graph, case: Case, learned: Mapping[str, np.ndarray], prefix: str) -> list[ir.Value]:
    """The weights of a compressor, in the dtype of the tokens."""
    dtype = DTYPES[case.dtype]
    values = []
    for name, array in learned.items():
        tensor = ir.tensor(array.astype(dtype.numpy()), name=f"{prefix}{name}")
        value = ir.Value(name=tensor.name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
        graph.register_initializer(value)
        values.append(value)
    return values


def _place(graph: ir.Graph, nodes: Sequence[ir.Node], reads: Sequence[ir.Value], before: set[ir.Node]) -> bool:
    """Insert behind what the nodes read; whether that is behind a reader of the tokens, so that a sort is due."""
    producers = {value.producer() for value in reads} - {None}
    if not producers:
        graph.insert_before(graph[0], nodes) if len(graph) else graph.extend(nodes)
        return False
    remaining, anchor, late = set(producers), None, False
    readers = {node for node in reads[0].consumers() if node in before}
    for node in graph:
        late = late or (node in readers and bool(remaining))
        if node in remaining:
            remaining.discard(node)
            anchor = node
    assert anchor is not None
    graph.insert_after(anchor, nodes)
    return late


def _output_names(model: ir.Model, outputs: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise RequestError(f"outputs {outputs!r} is not a list of names", fix="Write for example outputs=['sizes'].")
    names = dict(outputs) if isinstance(outputs, Mapping) else {name: name for name in outputs}
    for name in names:
        if name not in EXTRA_OUTPUTS:
            raise RequestError(
                f"a compressor has no output {name!r} to add", fix=nearest(name, EXTRA_OUTPUTS, kind="outputs")
            )
    if not all(isinstance(name, str) and name for name in names.values()):
        raise RequestError(f"an output without a name in {names}", fix="Name it, or leave it out.")
    if len(set(names.values())) < len(names):
        raise RequestError(f"two outputs have one name in {names}", fix="Give each its own.")
    taken = {*values_by_name(model.graph)}
    for name, wanted in names.items():
        if wanted in taken:
            raise RequestError(
                f"the graph has a tensor {wanted!r} already",
                where=f"graph {model.graph.name}",
                fix=f"Name the new output otherwise, outputs={{{name!r}: {wanted + '_2'!r}}}, or leave it out.",
            )
    return names


def _seam_value(model: ir.Model, seam: Seam) -> ir.Value:
    where = f"graph {model.graph.name}, tensor {seam.tensor}"
    if not seam.valid:
        raise RequestError(f"selecting at seam {seam.name!r} is not valid: {seam.why}", where=where)
    value = values_by_name(model.graph).get(seam.tensor)
    if value is None:
        raise GraphError(
            f"seam {seam.name!r}: its tensor is not in the graph", where=where, fix="Find the seams again."
        )
    shape = None if value.shape is None else list(value.shape)
    if shape is None or len(shape) != 3:
        raise GraphError(f"tokens must be [B, N, D], but the shape is {shape}", where=where)
    if not isinstance(shape[1], int) or not isinstance(shape[2], int):
        raise GraphError(
            f"tokens and channels must be fixed numbers, but the shape is [{', '.join(map(str, shape))}]",
            where=where,
            fix=fix_of(model),
        )
    if shape[1:] != [seam.prefix + seam.tokens, seam.dim] or value.dtype != DTYPES.get(seam.dtype):
        raise GraphError(
            f"seam {seam.name!r} says {seam.prefix} + {seam.tokens} tokens of {seam.dim} channels {seam.dtype}, the "
            f"graph has {shape} {value.dtype}",
            where=where,
            fix="Find the seams again after editing the graph.",
        )
    return value


def _refuse_missing(model: ir.Model, compressor: Compressor, seam: Seam) -> None:
    """`emit_signal` says which methods work; ask it for the missing one before anything is edited."""
    from .signals import check_text, emit_signal

    for name in compressor.signals():
        if name == TEXT:
            check_text(model, seam, text_length(compressor))
        elif name not in seam.signals:
            emit_signal(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), seam, name)
            raise AssertionError(name)
