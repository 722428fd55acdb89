"""Opens a graph in ONNX Runtime, by default on the CPU: to measure ranges, and to run an extracted part for a proof."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from ...errors import GraphError, MissingError, first_line
from ...files import utf8_name
from . import providers
from .model_io import EXTERNAL_FROM_BYTES, external_tensors

if TYPE_CHECKING:
    import onnxruntime


Level = Literal["none", "basic", "extended", "all"]
_LEVELS: dict[Level, str] = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def open_session(
    model: ir.Model, threads: int | None = None, *, packed: bool = True, level: Level = "all", provider: str = "cpu"
) -> onnxruntime.InferenceSession:
    """A session of `model`; external weights are read from their files, and those in memory where they are.

    Args:
        model: any graph; it is not changed.
        threads: inside one operator; None: one per core.
        packed: whether weights are copied into the order in which they are read fastest, and what depends on them alone
            is computed once; else the session holds no weight of its own.
        level: which of ONNX Runtime's optimisations of the graph are on.
        provider: see `providers.provider_of`; the CPU takes what it cannot run.

    Raises:
        MissingError: ONNX Runtime is not installed, or is without the provider, or that does not load.
        GraphError: it refuses the graph, or external weights are in several folders.
    """
    onnxruntime, named = providers.onnxruntime(), providers.provider_of(provider)
    folders = {str(tensor.base_dir) for tensor in external_tensors(model)}
    if len(folders) > 1:
        raise GraphError(f"external weights are in {len(folders)} folders", fix="Save the model into one folder first.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[level])
    # Threads that spin while they wait take the cores from whatever else runs, torch's above all.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if folders:
        folder = utf8_name(folders.pop())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    options.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
    light, held = _without_weights(model)
    alone = {value.name for value in light.graph.initializers.values() if _is_matrix(value)}
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in held.values()]
    options.add_external_initializers(list(held), values)
    for name, value in zip(held, values):
        # By the call above they stand in the graph, and by this one they are not copied. Of what ONNX Runtime may turn
        # to spare a Transpose beside it, it would then read the old order under the new shape.
        if name in alone:
            options.add_initializer(name, value)
    try:
        session = providers.opened(
            ir.to_proto(light).SerializeToString(),
            options,
            named,
            disabled_optimizers=None if packed else ["ConstantFolding"],
        )
    except MissingError:
        raise
    except Exception as error:
        # onnxruntime's exceptions have no public base class.
        raise GraphError(
            f"ONNX Runtime refuses the graph: {first_line(error, 300)}", where=f"{model.graph.name}"
        ) from error
    # ONNX Runtime has addresses alone.
    session.weights_in_memory = values
    return session


def _without_weights(model: ir.Model) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """A copy whose weights in memory are named as external data, and those weights by name, uncopied.

    Matrices that torch holds transposed are held so, and the copy transposes them.
    """
    held: dict[str, np.ndarray] = {}
    light = model.clone()
    for value in list(light.graph.initializers.values()):
        tensor = value.const_value
        # Of other types numpy has no array, or ONNX Runtime takes none.
        if tensor is None or tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            continue
        if isinstance(tensor, ir.ExternalTensor) or tensor.nbytes < EXTERNAL_FROM_BYTES:
            continue
        array = tensor.numpy()
        turned = array.ndim == 2 and not array.flags.c_contiguous and array.T.flags.c_contiguous
        if turned and not value.is_graph_output() and not value.is_graph_input():
            value = _turned(light.graph, value)
            array = array.T
        array = held[value.name or ""] = np.ascontiguousarray(array)
        value.const_value = ir.ExternalTensor(
            "held", 0, array.nbytes, tensor.dtype, shape=ir.Shape(array.shape), name=value.name or ""
        )
    return light, held


def _is_matrix(value: ir.Value) -> bool:
    """Whether it is read as a matrix or a table alone, if need be turned: optimizers leave such a one as it is."""
    readers = [node for node, _ in value.uses()]
    turned = [output for node in readers if node.op_type == "Transpose" for output in node.outputs]
    others = [node for node in readers if node.op_type != "Transpose"]
    others += [node for output in turned for node in output.consumers()]
    return all(node.op_type in ("MatMul", "Gemm", "Gather") for node in others)


def _turned(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A new initializer, of which a Transpose makes what `value` was; that one is one no more."""
    name = value.name or ""
    assert value.shape is not None and len(graph)
    graph.initializers.pop(name)
    new = ir.Value(name=f"{name}.turned", type=value.type, shape=ir.Shape(reversed(tuple(value.shape))))
    node = ir.node("Transpose", [new], {"perm": [1, 0]}, name=f"{name}.turn")
    output = node.outputs[0]
    output.name, output.type, output.shape = f"{name}.turned_back", value.type, value.shape
    ir.convenience.replace_all_uses_with(value, output)
    graph.insert_before(graph[0], node)
    new.const_value = value.const_value
    graph.register_initializer(new)
    return new
