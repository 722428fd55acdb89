"""Turns a model into the bytes of a graph file whose weights are in a data file beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ...errors import GraphError
from ...graph_passes.ir_tools.model_io import EXTERNAL_FROM_BYTES
from .manifest import TensorRecord
from .strip import strip_local_info

if TYPE_CHECKING:
    import onnx_ir as ir

_PROTOBUF_LIMIT = 2**31 - 1


def weights(model: ir.Model) -> list[ir.TensorProtocol]:
    """The tensors of a model that go into a data file."""
    tensors = (value.const_value for value in _initializers(model))
    return [tensor for tensor in tensors if tensor is not None and _is_weight(tensor)]


def serialize(model: ir.Model, data_name: str, place: Callable[[ir.TensorProtocol], tuple[int, int]]) -> bytes:
    """The ONNX file of `model`, without stack traces and local paths; `model` itself is unchanged.

    Args:
        model: any.
        data_name: the data file's name, relative to the graph file.
        place: weight -> (offset, length) in the data file.

    Raises:
        GraphError: the graph without its weights is larger than protobuf's 2 GB.
    """
    import onnx_ir as ir

    copy = model.clone()
    for value in _initializers(copy):
        tensor = value.const_value
        if tensor is not None and _is_weight(tensor):
            offset, length = place(tensor)
            value.const_value = ir.ExternalTensor(
                data_name, offset, length, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=value.name or ""
            )
        else:
            value.const_value = _in_memory(tensor)
    for node in copy.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, _in_memory(attribute.value))
    proto = ir.to_proto(copy)
    strip_local_info(proto)
    if proto.ByteSize() > _PROTOBUF_LIMIT:
        raise GraphError(
            f"the graph has {proto.ByteSize() / 1e9:.1f} GB in node attributes, and at most 2 GB are possible",
            fix="Make its large Constant nodes initializers.",
        )
    return bytes(proto.SerializeToString())


def tensor_record(name: str, values: Iterable[ir.Value]) -> TensorRecord:
    """The manifest's entry for the input or output `name` of a graph.

    Raises:
        GraphError: no value has that name, or its rank or dtype is unknown.
    """
    found = {value.name: value for value in values}
    value = found.get(name)
    if value is None or value.shape is None or value.dtype is None:
        raise GraphError(
            f"the graph has no {name!r} of known shape and dtype among {', '.join(map(str, found)) or 'nothing'}",
            fix="Infer its shapes first, or name another tensor.",
        )
    shape = [axis if isinstance(axis, int) else -1 for axis in value.shape]
    return TensorRecord(name=name, dtype=str(value.dtype.numpy()), shape=shape)  # type: ignore[arg-type]


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.initializers.values()


def _is_weight(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype.name != "STRING" and tensor.nbytes >= EXTERNAL_FROM_BYTES


def _in_memory(tensor: Any) -> Any:
    """Read a tensor from the source's data file, because that file is not in the bundle."""
    import onnx_ir as ir

    if isinstance(tensor, ir.ExternalTensor):
        return ir.Tensor(tensor.numpy().copy(), name=tensor.name, dtype=tensor.dtype)
    return tensor
