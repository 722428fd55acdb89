"""An ONNX file that shows its values: they become further outputs, some at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ...errors import GraphError
from ...graph_passes.forms import to_inlined
from ...graph_passes.ir_tools.builder import DTYPE_NAMES
from ...graph_passes.ir_tools.extract import between
from ...graph_passes.ir_tools.input_shapes import fix_inputs, fix_of, given_inputs
from ...graph_passes.ir_tools.model_io import load_model
from ...graph_passes.ir_tools.walk import Walk, dims, has_subgraph, node_keys
from ...graph_passes.precision.rounded import rounded
from ...graph_passes.seams.scopes import Scopes
from ...runtimes.ort.graph import ort_runner
from .sides import Arrays, Feeds, Input, Run, Side, Value

if TYPE_CHECKING:
    from ...graph_passes.ir_tools.ort_session import Level

# Operators that hand a table's row, or an index, on as it is.
_HANDS_ON = ("Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten", "Expand", "Transpose", "Concat", "Slice")
_PRECISIONS = {"float16": "fp16", "bfloat16": "bf16"}


@dataclass
class OnnxSide(Side):
    """A graph in ONNX Runtime.

    Attributes:
        level: which of ONNX Runtime's optimisations are on.
        provider: its execution provider.
    """

    level: Level = "all"
    provider: str = "cpu"

    def read(self, feeds: Feeds, names: Collection[str]) -> Arrays:
        """See `Side`."""
        assert self.model is not None
        if tuple(names) == self.outputs:
            return self.maker(self.model)(feeds)
        # What comes after them is neither computed nor looked at: it may be what does not run.
        shown = between(self.model, [], list(names))
        return self.maker(shown)({value.name or "": feeds[value.name or ""] for value in shown.graph.inputs})

    def maker(self, model: ir.Model) -> Run:
        """A graph, or a part of one, as this side runs it."""
        rounds = self.provider == "cpu" and not _branches(model)
        return ort_runner(rounded(model) if rounds else model, level=self.level, provider=self.provider)


def open_onnx(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    given: Feeds,
    *,
    text: str = "",
    level: Level = "all",
    provider: str = "cpu",
) -> OnnxSide:
    """Read an ONNX file.

    Args:
        path: the file.
        shapes: input name -> sizes, for inputs with axes of no fixed length.
        given: arrays that have the sizes of the others.
        text: what the user typed, where it is not the path.
        level: see `OnnxSide`.
        provider: likewise.

    Raises:
        GraphError: not an ONNX file, or an axis other than the first of an input has no fixed length.
        RequestError: sizes that do not fit.
    """
    model = load_model(path)
    if model.functions:
        model = to_inlined(model)
    return of_model(model, shapes, given, text or str(path), level=level, provider=provider)


def of_model(
    model: ir.Model,
    shapes: Mapping[str, Sequence[int]],
    given: Feeds,
    text: str,
    *,
    level: Level = "all",
    provider: str = "cpu",
) -> OnnxSide:
    """The side of a graph without functions; see `open_onnx`."""
    inputs = {value.name or "": value for value in given_inputs(model.graph)}
    wanted = {name: list(sizes) for name, sizes in shapes.items() if name in inputs}
    for name, value in inputs.items():
        known = dims(value)
        loose = known is None or None in known
        if loose and name in given:
            wanted.setdefault(name, list(given[name].shape))
        if name not in wanted and known and known[0] is None and None not in known[1:]:
            wanted[name] = [1, *(size for size in known[1:] if size is not None)]
        elif name not in wanted and loose:
            raise GraphError(
                f"input {name} of {text} has the shape {'?' if value.shape is None else value.shape}, which is not "
                "static",
                fix=f"{fix_of(model)} Or give --inputs FILE.npz.",
            )
    fix_inputs(model, wanted)
    walk = Walk(model)
    half = _half(model)
    notes = []
    if half and provider == "cpu" and _branches(model):
        notes.append(f"{text}: it holds graphs (If, Loop, Scan), so what overflows in {half} is not seen on the CPU")
    elif half and provider == "cpu":
        notes.append(f"{text}: ONNX Runtime's CPU has no {half} arithmetic: float32, and each value rounded to {half}")
    where = "" if provider == "cpu" else f" on {provider}"
    runs = f"ONNX Runtime{where}, optimisations {level}"
    return OnnxSide(
        text=text,
        runs=runs,
        inputs={name: _input(value, text) for name, value in inputs.items()},
        outputs=tuple(value.name or "" for value in model.graph.outputs),
        values=tuple(_values(walk)),
        precision=_PRECISIONS.get(half, "fp32"),
        model=model,
        notes=notes,
        makes=True,
        level=level,
        provider=provider,
    )


def _branches(model: ir.Model) -> bool:
    """Whether a node holds a graph."""
    return any(has_subgraph(node) for node in model.graph)


def _half(model: ir.Model) -> str:
    """The least precise type that a node computes in; empty without one of half precision."""
    found = {value.dtype for node in model.graph for value in node.outputs}
    least = next((half for half in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16) if half in found), None)
    return "" if least is None else DTYPE_NAMES[least]


def _values(walk: Walk) -> list[Value]:
    keys, scopes = node_keys(walk.graph), Scopes(walk)
    return [
        Value(output.name, node.op_type, keys[node], scopes.paths.get(node, ""), dims(output))
        for node in walk.nodes
        for output in node.outputs
        if output.name and _is_array(output) and not walk.learned(output)
    ]


def _is_array(value: ir.Value) -> bool:
    """Whether it is a tensor of numbers: no sequence, no text, and of a type that is known."""
    return isinstance(value.type, ir.TensorType) and value.dtype not in (None, ir.DataType.STRING)


def _input(value: ir.Value, text: str) -> Input:
    try:
        assert value.dtype is not None
        dtype = value.dtype.numpy()
    except (AssertionError, TypeError):
        raise GraphError(f"input {value.name} has the type {value.type}", where=text) from None
    half = value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return Input(np.dtype(np.float32) if half else dtype, dims(value), _limit(value))


def _limit(value: ir.Value) -> int:
    """The rows of the smallest table that an integer input indexes; 0 where it indexes none."""
    rows, todo, seen = [], [value], {value}
    while todo:
        read = todo.pop()
        for node, index in read.uses():
            if node.op_type == "Gather" and index == 1:
                table, axis = dims(node.inputs[0]), node.attributes.get("axis")
                size = table[axis.as_int() if axis is not None else 0] if table else None
                rows += [size] if size else []
            elif node.op_type in _HANDS_ON and index == 0:
                todo += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
    return min(rows, default=0)
