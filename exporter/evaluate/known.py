"""Figures that were measured before, from the user's cache folder; see `exporter.cache`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .. import cache

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..sources.source import Question

_KIND = "figures"
_memory: dict[str, str] = {}


def figure(parts: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """The figure of a key: one that is known, or what `measure` finds, which is known from then on.

    Args:
        parts: all that the figure depends on but code and versions; JSON.
        measure: finds it: JSON without NaN.
    """
    key = cache.key_of(parts)
    if key not in _memory:
        kept = cache.read(_KIND, key)
        if kept is None:
            kept = json.dumps(measure(), allow_nan=False).encode()
            cache.write(_KIND, key, kept)
        _memory[key] = kept.decode()
    # A copy: whoever gets it may change it.
    return json.loads(_memory[key])


def graph_hash(model: ir.Model) -> str:
    """SHA-256 of a graph with its weights, wherever they are kept."""
    import onnx_ir as ir

    digest = hashlib.sha256()
    for node in model.graph:
        digest.update(ir.to_proto(node).SerializeToString(deterministic=True))
    for name, value in model.graph.initializers.items():
        digest.update(name.encode())
        if value.const_value is not None:
            digest.update(value.const_value.tobytes())
    return digest.hexdigest()


def questions_hash(asked: Iterable[Question]) -> str:
    """SHA-256 of questions, their inputs and their answers."""
    digest = hashlib.sha256()
    for question in asked:
        words = json.dumps([question.prompt, question.answer, question.input.shape, str(question.input.dtype)])
        digest.update(words.encode())
        digest.update(question.input.tobytes())
        digest.update(question.content.tobytes())
    return digest.hexdigest()
