"""Graphs of the built-in models that torch exported before, from the user's cache folder; see `exporter.cache`.

What such a module computes is in this package's code, its weights and the shapes of its inputs, so all that its export
depends on can be hashed. Of a user's module it cannot: that is exported each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import cache

if TYPE_CHECKING:
    import onnx_ir as ir

    from .source import GraphSource

_KIND = "graphs"
_OURS = f"{__package__.rpartition('.')[0]}.zoo."


def exported(graph: GraphSource, opset: int, export: Callable[[GraphSource, int], ir.Model]) -> ir.Model:
    """The graph of a module: one that is known, or what `export` makes, which is known from then on."""
    if not type(graph.module).__module__.startswith(_OURS):
        return export(graph, opset)
    import onnx
    import onnx_ir as ir

    key = cache.key_of({"graph": identity(graph, opset)})
    kept = cache.read(_KIND, key)
    if kept is not None:
        return ir.from_proto(onnx.ModelProto.FromString(kept))
    model = export(graph, opset)
    cache.write(_KIND, key, ir.to_proto(model).SerializeToString(deterministic=True))
    return model


def identity(graph: GraphSource, opset: int) -> str:
    """SHA-256 of all that the export of a built-in model's module depends on but code and versions."""
    import torch

    module, digest = graph.module, hashlib.sha256()
    assert module is not None
    said = (type(module).__module__, str(module), graph.role, graph.outputs, graph.grid, graph.placeholder, opset)
    digest.update(repr(said).encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers(), *graph.inputs.items()):
        tensor = torch.as_tensor(tensor)
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
