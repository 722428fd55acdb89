"""Opens an ONNX file that somebody else exported: needs neither torch nor the file's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...errors import GraphError
from ...graph_passes.ir_tools.model_io import external_tensors, load_model
from .source import GraphSource, Source
from .synthetic import image


@dataclass
class OnnxSource(Source):
    """A foreign graph; its tensor names are kept, and are also the roles."""

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """Drawn pictures in [-1, 1] for [1, 3, H, W], normal numbers for other floats, ones for integers and masks."""
        return [
            {name: _sample(x.shape, x.dtype, i) for name, x in self.encoder.inputs.items()}  # type: ignore[arg-type]
            for i in range(n)
        ]


def open_onnx(path: Path) -> Source:
    """Read the graph of an ONNX file and the names and shapes of its inputs and outputs; a dynamic batch becomes 1.

    Raises:
        GraphError: not an ONNX file, missing external data, or an input with a dynamic axis other than the batch.
    """
    model = load_model(path)
    graph = model.graph
    data = {path.parent / str(tensor.location) for tensor in external_tensors(model)}
    given = [value for value in graph.inputs if value.name not in graph.initializers]
    inputs = {value.name or "": np.zeros(_shape(value, path), _dtype(value, path)) for value in given}
    return OnnxSource(
        kind="onnx",
        name=path.stem,
        encoder=GraphSource(
            role="encoder",
            module=None,
            inputs=inputs,
            outputs=tuple(value.name or "" for value in graph.outputs),
        ),
        files=(path, *sorted(data)),
        model_path=path,
    )


def _shape(value: ir.Value, path: Path) -> tuple[int, ...]:
    dims = list(value.shape) if value.shape is not None else None
    if dims and not isinstance(dims[0], int):
        dims[0] = 1
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        raise GraphError(
            f"input {value.name} has the shape {'?' if value.shape is None else value.shape}, which is not static",
            where=path.name,
            fix=f"Fix the image size: python -m onnxruntime.tools.make_dynamic_shape_fixed --input_name {value.name} "
            f"--input_shape 1,3,336,336 {path.name} static.onnx",
        )
    return tuple(int(dim) for dim in dims)  # type: ignore[arg-type]


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
