"""Runs any graph in ONNX Runtime: a part that was cut free for a proof, not a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GraphError, MissingError

if TYPE_CHECKING:
    import onnx_ir as ir

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def ort_runner(model: ir.Model) -> Run:
    """Make `model` callable: arrays by input name -> arrays by output name; floats are cast to the graph's types.

    External weights are read from where they lie.

    Raises:
        MissingError: ONNX Runtime is not installed.
        GraphError: it refuses the graph, or external weights lie in several folders.
    """
    import onnx_ir as ir

    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("onnxruntime is not installed", fix='pip install "tokexport[ort]"') from error
    from ..graph_passes.model_io import external_tensors

    folders = {str(tensor.base_dir) for tensor in external_tensors(model)}
    if len(folders) > 1:
        raise GraphError(f"external weights lie in {len(folders)} folders", fix="Save the model into one folder first.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if folders:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folders.pop())
    try:
        session = onnxruntime.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # onnxruntime's exceptions have no public base class.
        raise GraphError(
            f"ONNX Runtime refuses the graph: {str(error).strip().splitlines()[0][:300]}", where=f"{model.graph.name}"
        ) from error
    types = {value.name: value.dtype.numpy() for value in model.graph.inputs if value.dtype is not None}
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        cast = {name: np.ascontiguousarray(array.astype(types[name], copy=False)) for name, array in feeds.items()}
        return dict(zip(names, session.run(names, cast)))

    return run
