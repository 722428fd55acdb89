"""Opens a graph in ONNX Runtime on the CPU: to measure ranges, and to run an extracted part for a proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from ...errors import GraphError, MissingError, first_line
from ...files import utf8_name
from .model_io import external_tensors

if TYPE_CHECKING:
    import onnxruntime


def open_session(model: ir.Model, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A session of `model`; external weights are read from their files.

    Args:
        model: any graph.
        threads: inside one operator; None: one per core.

    Raises:
        MissingError: ONNX Runtime is not installed.
        GraphError: it refuses the graph, or external weights are in several folders.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("onnxruntime is not installed", fix='pip install "tokexport[ort]"') from error
    folders = {str(tensor.base_dir) for tensor in external_tensors(model)}
    if len(folders) > 1:
        raise GraphError(f"external weights are in {len(folders)} folders", fix="Save the model into one folder first.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin while they wait take the cores from whatever else runs, torch's above all.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if folders:
        folder = utf8_name(folders.pop())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        return onnxruntime.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # onnxruntime's exceptions have no public base class.
        raise GraphError(
            f"ONNX Runtime refuses the graph: {first_line(error, 300)}", where=f"{model.graph.name}"
        ) from error
