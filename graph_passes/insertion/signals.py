"""What a method reads in addition to the tokens: attention and keys, computed in the graph, or a text input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ...errors import GraphError, RequestError
from ..compressors.blocks.attended import OF_WORDS
from ..compressors.blocks.texts import TEXT
from ..ir_tools.builder import DTYPES, Builder
from ..ir_tools.extract import values_by_name
from ..ir_tools.walk import Walk, attribute, dims
from ..seams.seam import Seam, Signal
from .compose import emit_gathered
from .inserted import Inserted, Read


def emit_signal(model: ir.Model, seam: Seam, name: str, text_length: int = 0) -> ir.Value:
    """Add the nodes that compute a signal of a seam, or the graph input that holds it.

    Args:
        model: the graph to add to, of opset 18 or more.
        seam: a seam of this graph.
        name: ``cls_attention``: attention from CLS to each token in the last attention layer before the seam, mean over
            heads, [B, N] float32. ``received_attention``: attention to each token there, mean over heads and over all
            queries, prefix tokens' queries included, [B, N] float32. ``keys``: keys of that attention without any
            scale, mean over heads, [B, N, Dk], in the dtype of the tokens, but in float32 where that attention is.
            Prefix tokens are left out of all. ``text``: a graph input of that name [B, L, D] in the dtype of the
            tokens, at every seam.
        text_length: L, of ``text``.

    Returns:
        The value that holds it; the same one when asked again.

    Raises:
        RequestError: the seam has no such signal; the methods that work there are listed. Or the graph has another
            tensor named ``text``.
        GraphError: a tensor that the seam names is not in the graph.
    """
    check_signal(model, seam, name, text_length)
    if name == TEXT:
        return _text(model, seam, text_length)
    signal = seam.signals[name]
    by_name = {value.name: value for node in model.graph for value in node.outputs}
    by_name.update({value.name: value for value in model.graph.inputs})
    result_name = f"{seam.tensor}.{name}"
    if result_name in by_name:
        return by_name[result_name]
    read = [*signal.tensors, *([signal.output] if signal.output else [])]
    absent = [tensor for tensor in read if tensor not in by_name]
    if absent:
        raise GraphError(
            f"the signal {name!r} is read from the tensor {absent[0]!r}, which is not in the graph",
            where=f"seam {seam.name}",
            fix="Find the seams again after editing the graph.",
        )
    b = Builder(f"{result_name}.")
    sources = [by_name[tensor] for tensor in signal.tensors]
    if name == "keys":
        result = _keys(b, signal, sources[0])
        # In a graph of two precisions the attention may run in the other one: in float32 because float16 cannot hold
        # its keys, so these are never cast down.
        if sources[0].dtype not in (DTYPES[seam.dtype], ir.DataType.FLOAT):
            result = b.cast(result, seam.dtype)
        shape: tuple[int | None, ...] = (seam.batch, seam.tokens, _width(signal, sources[0]))
    else:
        first = name == "cls_attention"
        if signal.kind == "query_key":
            operator = by_name[signal.output].producer()
            assert operator is not None
            weights = _softmax_of(b, signal, sources[0], sources[1], operator, first)
        else:
            weights = _rows_of(b, sources[0], seam.batch, first)
        result = _mean_of_tokens(b, weights, signal.prefix, sources[0].dtype)
        shape = (seam.batch, seam.tokens)
    result.name = result_name
    result.shape = ir.Shape([dim if dim is not None else "batch" for dim in shape])
    wide = name != "keys" or sources[0].dtype == ir.DataType.FLOAT
    result.dtype = ir.DataType.FLOAT if wide else DTYPES[seam.dtype]
    insert_after(model.graph, [*sources, *_operands(signal, by_name)], b.nodes)
    return result


def read_signal(
    model: ir.Model, seam: Seam, name: str, text_length: int, after: Inserted | None
) -> tuple[ir.Value, Read]:
    """The signal of a seam as a compressor there reads it, added to the graph, and where it comes from.

    Attention between the previous step and the seam is over the slots of that step. Attention upstream of that step is
    over the tokens that it compressed: it is gathered at its kept_indices (see `compose`).

    Args:
        model: the graph to add to.
        seam: as `sequence.follow` gives it.
        name: of the signal.
        text_length: L, of ``text``.
        after: the previous step, or None.

    Raises:
        RequestError, GraphError: as `emit_signal`.
    """
    if after is None or name == TEXT or _is_downstream(model, seam.signals[name], after):
        value = emit_signal(model, seam, name, text_length)
        return value, Read(value.name or "", value.name or "")
    # The prefix tokens of the attention's own sequence are left out, so the seam's own prefix does not matter here.
    earlier = replace(seam, tensor=after.seam.tensor, tokens=after.seam.tokens)
    signal, how = read_signal(model, earlier, name, text_length, after.before)
    values = values_by_name(model.graph)
    kept = values[after.node_outputs["kept_indices"]]
    result_name = f"{after.node_name}.{name}"
    through = (*how.through, kept.name or "")
    if result_name in values:
        return values[result_name], Read(result_name, how.source, through)
    b = Builder(f"{result_name}.")
    result = b.op("Identity", emit_gathered(b, signal, kept))
    assert kept.shape is not None and signal.shape is not None, "signals and indices have shapes"
    result.name, result.type = result_name, signal.type
    result.shape = ir.Shape([*kept.shape, *list(signal.shape)[2:]])
    insert_after(model.graph, [signal, kept], b.nodes)
    return result, Read(result_name, how.source, through)


def _is_downstream(model: ir.Model, signal: Signal, step: Inserted) -> bool:
    """Whether a signal is computed downstream of a step."""
    node = next(node for node in model.graph if node.name == step.node_name)
    downstream = Walk(model).descendants(node.outputs[0])
    return all(values_by_name(model.graph)[tensor].producer() in downstream for tensor in signal.tensors)


def check_signal(model: ir.Model, seam: Seam, name: str, text_length: int = 0) -> None:
    """Whether a seam has a signal; arguments as `emit_signal`.

    Raises:
        RequestError: it does not; the methods that work there are listed. Or the graph has a tensor named ``text`` that
            is no text of that length for this seam.
    """
    if name == TEXT:
        _check_text(model, seam, text_length)
    elif name in OF_WORDS:
        own = next((whose for whose in ("cls", "received") if f"{whose}_attention" in seam.signals), "")
        here = f" Or rank by what is here: --method cls_topk --set attention={own}." if own else ""
        raise RequestError(
            f"{name!r} is what words pay the tokens, and seam {seam.name!r} is in the encoder, which reads no words",
            where=f"tensor {seam.tensor}",
            fix="Take a seam of a folder's language model, such as --seam decoder_layer:1; `tokexport inspect FOLDER` "
            f"lists them.{here}",
        )
    elif name not in seam.signals:
        raise RequestError(
            f"seam {seam.name!r} has no signal {name!r}",
            where=f"tensor {seam.tensor}, signals: {', '.join(sorted(seam.signals)) or 'none'}",
            fix=_instead(seam, name),
        )


def _check_text(model: ir.Model, seam: Seam, length: int) -> None:
    found = values_by_name(model.graph).get(TEXT)
    if found is None:
        return
    shape = None if found.shape is None else list(found.shape)
    is_text = found.is_graph_input() and not found.is_initializer() and found.dtype == DTYPES[seam.dtype]
    if not is_text or shape is None or shape[1:] != [length, seam.dim]:
        raise RequestError(
            f"the graph has a tensor {TEXT!r} {shape} already, and the method reads an input {TEXT!r} "
            f"[B, {length}, {seam.dim}] in {seam.dtype}",
            where=f"graph {model.graph.name}, seam {seam.name}",
            fix="If it is the text, give its number of rows: --set text_length=ROWS. If it is not, rename it.",
        )


def _text(model: ir.Model, seam: Seam, length: int) -> ir.Value:
    values = values_by_name(model.graph)
    if TEXT not in values:
        shape = values[seam.tensor].shape
        batch = shape[0] if shape is not None and seam.rank == 3 else seam.batch
        text = ir.Value(name=TEXT, shape=ir.Shape([batch, length, seam.dim]), type=ir.TensorType(DTYPES[seam.dtype]))
        model.graph.inputs.append(text)
        return text
    return values[TEXT]


def _instead(seam: Seam, missing: str) -> str:
    """What to type where the seam lacks a signal."""
    fix = ""
    if missing == "cls_attention" and "received_attention" in seam.signals:
        readers = _methods_for(seam, attention="received")
        fix = f"That attention has no CLS token; {', '.join(readers) or 'no method'} can rank tokens by the attention "
        fix += "that they receive from all others: add --set attention=received. "
    return fix + f"Methods that work there: {', '.join(_methods_for(seam)) or 'none'}."


def _methods_for(seam: Seam, **params: str) -> list[str]:
    """Methods that take `params` and then read only signals that the seam has."""
    from ..compressors import make, names

    found = []
    for method in names():
        try:
            wanted = make(method, params).signals()
        except (ImportError, TypeError, RequestError):
            # A method of another package that cannot be imported, or one without these parameters.
            continue
        if set(wanted) <= {*seam.signals, TEXT}:
            found.append(method)
    return found


def _rows_of(b: Builder, weights: ir.Value, batch: int | None, first: bool) -> ir.Value:
    """Softmax weights [B, H, n, n] or [B * H, n, n] as [B, H, rows, n]: all rows, or only that of the first token."""
    rank = len(dims(weights) or ())
    rows = b.op("Slice", weights, [0], [1], [rank - 2]) if first else weights
    if rank == 4:
        return rows
    if batch is None:
        raise GraphError(
            "the attention weights have heads and batch in one axis, which a dynamic batch size does not let us split",
            where=f"tensor {weights.name}",
            fix="Export the model with a fixed batch size.",
        )
    length = (dims(weights) or (None,))[-1] or 0
    return b.op("Reshape", rows, [batch, -1, 1 if first else length, length])


def _mean_of_tokens(b: Builder, rows: ir.Value, prefix: int, dtype: ir.DataType | None) -> ir.Value:
    """[B, H, rows, prefix + N] -> [B, N] float32, mean over heads and rows."""
    columns = b.op("Slice", rows, [prefix], [np.iinfo(np.int64).max], [3])
    if dtype != ir.DataType.FLOAT:
        columns = b.cast(columns, "float32")
    return b.op("ReduceMean", columns, [1, 2], keepdims=0)


def _softmax_of(b: Builder, signal: Signal, query: ir.Value, key: ir.Value, operator: ir.Node, first: bool) -> ir.Value:
    """Softmax of the logits of all queries or the first, [B, H, rows, n], as the Attention node computes them."""
    if first:
        query = b.op("Slice", query, [0], [1], [signal.layout.index("N")])
    rows, keys = (_to(b, x, signal.layout, signal.heads, "BHND") for x in (query, key))
    # Half of the scale on each side, as the operator's definition has it: that keeps float16 in range.
    half = b.op("CastLike", float(abs(signal.scale) ** 0.5), query)
    logits = b.op("MatMul", b.op("Mul", rows, half), b.op("Transpose", b.op("Mul", keys, half), perm=[0, 1, 3, 2]))
    if signal.scale < 0:
        logits = b.op("Neg", logits)
    softcap = float(attribute(operator, "softcap", 0.0))  # type: ignore[arg-type]
    if softcap:
        cap = b.op("CastLike", softcap, query)
        logits = b.op("Mul", b.op("Tanh", b.op("Div", logits, cap)), cap)
    mask = operator.inputs[3] if len(operator.inputs) > 3 else None
    if mask is not None:
        shape = dims(mask) or (1, 1)
        row = b.op("Slice", mask, [0], [1], [len(shape) - 2]) if first and shape[-2] != 1 else mask
        if mask.dtype == ir.DataType.BOOL:
            nothing = b.op("CastLike", float("-inf"), query)
            logits = b.op("Where", row, logits, nothing)
        else:
            logits = b.op("Add", logits, row)
    return b.op("Softmax", logits, axis=-1)


def _keys(b: Builder, signal: Signal, key: ir.Value) -> ir.Value:
    """[B, N, Dk], mean over heads, without the scale that the exporter multiplied in."""
    layout = signal.layout
    if "E" in layout:
        key, layout = b.op("Reshape", key, [0, 0, signal.heads or 1, -1]), "BNHD"
    if layout[-1] == "N" or layout.index("D") < layout.index("N"):
        key, layout = _permuted(b, key, layout, "BHND"), "BHND"
    mean = b.op("ReduceMean", key, [layout.index("H")], keepdims=0)
    if layout.replace("H", "") != "BND":
        mean = _permuted(b, mean, layout.replace("H", ""), "BND")
    if signal.scale != 1.0:
        mean = b.op("Mul", mean, b.op("CastLike", 1 / signal.scale, mean))
    if signal.prefix:
        mean = b.op("Slice", mean, [signal.prefix], [np.iinfo(np.int64).max], [1])
    return b.op("Identity", mean)


def _to(b: Builder, value: ir.Value, layout: str, heads: int | None, wanted: str) -> ir.Value:
    if "E" in layout:
        value, layout = b.op("Reshape", value, [0, 0, heads or 1, -1]), "BNHD"
    return value if layout == wanted else _permuted(b, value, layout, wanted)


def _permuted(b: Builder, value: ir.Value, layout: str, wanted: str) -> ir.Value:
    return b.op("Transpose", value, perm=[layout.index(axis) for axis in wanted])


def _width(signal: Signal, key: ir.Value) -> int | None:
    shape = dims(key)
    if shape is None:
        return None
    if "E" in signal.layout:
        return shape[-1] // (signal.heads or 1) if shape[-1] else None
    return shape[signal.layout.index("D")]


def _operands(signal: Signal, by_name: dict[str | None, ir.Value]) -> list[ir.Value]:
    """What the emitted nodes read in addition to the signal's tensors: the mask of an Attention node."""
    if not signal.output:
        return []
    operator = by_name[signal.output].producer()
    mask = operator.inputs[3] if operator is not None and len(operator.inputs) > 3 else None
    return [mask] if mask is not None else []


def insert_after(graph: ir.Graph, values: list[ir.Value], nodes: list[ir.Node]) -> None:
    """Insert nodes after the last node that computes one of `values`, so that the graph stays sorted."""
    producers = {value.producer() for value in values}
    last = next((node for node in reversed(graph) if node in producers), None)
    if last is not None:
        graph.insert_after(last, nodes)
    elif len(graph):
        graph.insert_before(graph[0], nodes)
    else:
        graph.extend(nodes)
