"""Runs any graph in ONNX Runtime: a part that was extracted for a proof, not a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ...errors import GraphError, first_line
from ...graph_passes.ir_tools.ort_session import Level, open_session

if TYPE_CHECKING:
    import onnx_ir as ir

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def ort_runner(model: ir.Model, threads: int | None = None, *, level: Level = "all", provider: str = "cpu") -> Run:
    """Make `model` callable: arrays by input name -> arrays by output name; floats are cast to the graph's types.

    External weights are read from their own folder.

    Args:
        model: any graph.
        threads: inside one operator; None: one per core.
        level: see `open_session`.
        provider: likewise.

    Raises:
        MissingError: ONNX Runtime is not installed, or is without the provider, or that does not load.
        GraphError: ONNX Runtime rejects the graph, or external weights lie in several folders.
    """
    session = open_session(model, threads, level=level, provider=provider)
    types = {value.name or "": value.dtype.numpy() for value in model.graph.inputs if value.dtype is not None}
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        unknown = sorted(feeds.keys() ^ types.keys())
        if unknown:
            raise GraphError(f"input {unknown[0]!r} is missing or unknown", where=f"graph {model.graph.name}")
        cast = {name: np.ascontiguousarray(array.astype(types[name], copy=False)) for name, array in feeds.items()}
        try:
            # Copied: an output of ONNX Runtime keeps the memory of its whole session, also when that is gone.
            return {name: array.copy() for name, array in zip(names, session.run(names, cast))}
        except Exception as error:
            # onnxruntime's exceptions have no public base class.
            raise GraphError(
                f"ONNX Runtime failed: {first_line(error, 300)}", where=f"graph {model.graph.name}"
            ) from error

    return run
