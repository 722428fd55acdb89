"""Texts for the proof of a graph that reads one: its source knows of none, because a compressor added the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import RequestError
from ..graph_passes.compressors import Compressor
from ..graph_passes.compressors.texts import TEXT

if TYPE_CHECKING:
    import onnx_ir as ir

Sample = dict[str, np.ndarray]

_SPOKEN = 0.75  # share of the rows that hold a prompt; the others are padding


def with_text(samples: list[Sample], model: ir.Model) -> list[Sample]:
    """Inputs of an encoder, with a text for each where `model` reads one that they lack.

    Its rows are normal numbers, the same ones on every call, and zeros from three quarters on.
    """
    text = next((value for value in model.graph.inputs if value.name == TEXT), None)
    if text is None or text.shape is None or text.dtype is None:
        return samples
    _, length, dim = text.shape
    assert isinstance(length, int) and isinstance(dim, int)
    rows = np.random.default_rng(0).standard_normal((len(samples), 1, length, dim))
    rows[:, :, max(1, int(_SPOKEN * length)) :] = 0
    return [{**sample, TEXT: sample.get(TEXT, row.astype(text.dtype.numpy()))} for sample, row in zip(samples, rows)]


def refuse_text(compressor: Compressor, what: str, fix: str) -> None:
    """Raise `RequestError` for a compressor that reads text, where no prompt's embeddings reach it."""
    if TEXT in compressor.signals():
        raise RequestError(f"{compressor.method.name} reads a text, and {what}", fix=fix)
