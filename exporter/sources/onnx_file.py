"""Opens an ONNX file that somebody else exported: needs neither torch nor the file's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...errors import GraphError
from ...graph_passes.ir_tools.input_shapes import drop_outputs as remove_outputs
from ...graph_passes.ir_tools.input_shapes import fix_inputs, fix_of, given_inputs, half_type, raise_opset
from ...graph_passes.ir_tools.model_io import data_files, load_model
from .source import GraphSource, Source
from .synthetic import image


@dataclass
class OnnxSource(Source):
    """A foreign graph; its tensor names are kept, and are also the roles.

    Attributes:
        input_shapes: sizes of inputs that were dynamic.
        drop_outputs: outputs that are left out.
    """

    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    drop_outputs: Sequence[str] = ()

    def load(self) -> tuple[ir.Model, list[str]]:
        """The graph that is compressed, and a note on each thing that was changed in it before."""
        assert self.model_path is not None
        return _prepared(self.model_path, self.input_shapes, self.drop_outputs)

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """Drawn pictures in [-1, 1] for [1, 3, H, W], normal numbers for other floats, ones for integers and masks."""
        return [
            {name: _sample(x.shape, x.dtype, i) for name, x in self.encoder.inputs.items()}  # type: ignore[arg-type]
            for i in range(n)
        ]


def open_onnx(
    path: Path, input_shapes: Mapping[str, Sequence[int]] | None = None, drop_outputs: Sequence[str] = ()
) -> Source:
    """Read the graph of an ONNX file and the names and shapes of its inputs and outputs; a dynamic batch becomes 1.

    Args:
        path: the file.
        input_shapes: input name -> sizes, where axes other than the batch are dynamic.
        drop_outputs: graph outputs that are left out.

    Raises:
        GraphError: not an ONNX file, missing external data, or an input with a dynamic axis other than the batch.
        RequestError: an input or output that the graph does not have, or sizes that do not fit.
    """
    shapes, dropped = dict(input_shapes or {}), tuple(drop_outputs)
    model, _ = _prepared(path, shapes, dropped)
    graph = model.graph
    inputs = {value.name or "": np.zeros(_shape(value), _dtype(value, path)) for value in given_inputs(graph)}
    return OnnxSource(
        kind="onnx",
        name=path.stem,
        encoder=GraphSource(
            role="encoder",
            module=None,
            inputs=inputs,
            outputs=tuple(value.name or "" for value in graph.outputs),
        ),
        files=(path, *data_files(model, path)),
        model_path=path,
        half={"float16": "fp16", "bfloat16": "bf16"}.get(half_type(model), ""),
        input_shapes=shapes,
        drop_outputs=dropped,
    )


def _prepared(path: Path, shapes: Mapping[str, Sequence[int]], dropped: Sequence[str]) -> tuple[ir.Model, list[str]]:
    model, notes = raise_opset(load_model(path))
    remove_outputs(model, dropped)
    notes += [f"output {name} was dropped" for name in dropped]
    wanted = {name: list(sizes) for name, sizes in shapes.items()}
    for value in given_inputs(model.graph):
        dims = None if value.shape is None else list(value.shape)
        if value.name not in wanted and dims and not isinstance(dims[0], int):
            dims[0] = 1
        if value.name not in wanted and (dims is None or not all(isinstance(dim, int) for dim in dims)):
            raise GraphError(
                f"input {value.name} has the shape {'?' if value.shape is None else value.shape}, which is not static",
                where=path.name,
                fix=fix_of(model),
            )
        if value.name not in wanted and dims is not None and value.shape is not None and not value.shape.is_static():
            wanted[value.name or ""] = [int(dim) for dim in dims]  # type: ignore[arg-type]
    return model, [*notes, *fix_inputs(model, wanted)]


def _shape(value: ir.Value) -> tuple[int, ...]:
    return tuple(int(dim) for dim in value.shape or ())  # type: ignore[arg-type]


def _dtype(value: ir.Value, path: Path) -> np.dtype:
    try:
        assert value.dtype is not None
        return value.dtype.numpy()
    except (AssertionError, TypeError):
        raise GraphError(f"input {value.name} has the type {value.type}", where=path.name) from None


def _sample(shape: tuple[int, ...], dtype: np.dtype, number: int) -> np.ndarray:
    if dtype.kind in "iub":
        return np.ones(shape, dtype)
    if len(shape) == 4 and shape[1] == 3:
        return np.stack([image(number, *shape[2:]) * 2 - 1] * shape[0]).astype(dtype)
    return np.random.default_rng(number).standard_normal(shape).astype(dtype)
