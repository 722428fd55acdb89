"""Graphs of the built-in models, exported by torch once in a process of the tests and copied from then on.

The copy is of the same module, weights, inputs and names: anything else is exported. The tests of the export itself
import the function before it is replaced, and processes of their own never see this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

OURS = "tokexport.exporter.zoo."


def sharing(export: Callable[..., Any]) -> Callable[..., Any]:
    """`export_graph` that exports the same graph of a built-in model once."""
    made: dict[str, Any] = {}

    def export_once(graph: Any, opset: int = 18) -> Any:
        if not type(graph.module).__module__.startswith(OURS):
            return export(graph, opset)
        key = identity(graph, opset)
        if key not in made:
            made[key] = export(graph, opset)
        return made[key].clone()

    return export_once


def identity(graph: Any, opset: int) -> str:
    """SHA-256 of all that an export depends on."""
    module, digest = graph.module, hashlib.sha256()
    said = (type(module).__module__, str(module), graph.role, graph.outputs, graph.grid, graph.placeholder, opset)
    digest.update(repr(said).encode())
    named = (*module.named_parameters(), *module.named_buffers(), *graph.inputs.items())
    for name, tensor in named:
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
