"""Which files a graph reads its weights from: found in the graph itself, wherever a tensor can stand."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import GraphError
from .held import AGAIN

if TYPE_CHECKING:
    from pathlib import Path

    import onnx


def external_data(folder: Path, name: str, content: bytes) -> list[str]:
    """The data files of a graph of a bundle, as paths inside the bundle.

    Args:
        folder: of the bundle, for messages.
        name: of the graph's file.
        content: of that file.

    Raises:
        GraphError: the file is no graph, or the name of one of its data files is no text.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise GraphError(f"runtimes cannot load it: {error}", where=str(folder / name), fix=AGAIN) from None
    found = {entry.value for tensor in _tensors(model) for entry in tensor.external_data if entry.key == "location"}
    # Protobuf gives what is no UTF-8 as bytes.
    strange = next((location for location in found if isinstance(location, bytes)), None)
    if strange is not None:
        raise GraphError(f"it reads the file {strange!r}, which is no text", where=str(folder / name), fix=AGAIN)
    return sorted(posixpath.join(posixpath.dirname(name), location) for location in found)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    training = [part for info in model.training_info for part in (info.initialization, info.algorithm)]
    graphs: list[onnx.GraphProto] = [model.graph, *training]
    nodes = [node for function in model.functions for node in function.node]
    sparse: list[onnx.SparseTensorProto] = []
    while graphs or nodes:
        for graph in graphs:
            yield from graph.initializer
            sparse += graph.sparse_initializer
            nodes += graph.node
        graphs = []
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
                graphs += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
        nodes = []
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)
