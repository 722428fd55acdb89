"""Texts for encoders that read one: embeddings of real prompts where the model has a graph text, else random rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RequestError
from ...graph_passes.compressors import Compressor
from ...graph_passes.compressors.blocks.texts import TEXT, text_length
from ...runtimes.generate import padded

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.seams.seam import Seam
    from .source import GraphSource, Source

Sample = dict[str, np.ndarray]

_FILLED = 0.75  # share of the rows that hold a random prompt; the others are padding


def text_of(source: Source, compressor: Compressor) -> GraphSource | None:
    """The graph text, where the compressor reads text and the source has that graph; see `check_length`."""
    length = text_length(compressor)
    return source.text(length) if length else None


def check_length(source: Source, compressor: Compressor) -> None:
    """Raise `RequestError` where the text would be shorter than the prompts of the language graphs."""
    generation, length = source.generation(1), text_length(compressor)
    if length and source.text_seam and generation is not None and length < generation.prompt_length:
        raise RequestError(
            f"text_length {length} is less than the {generation.prompt_length} ids that a prompt of {source.name} may "
            "have",
            fix=f"Use --set text_length={generation.prompt_length} or more.",
        )


def prompt_ids(source: Source, prompt: Sequence[int], length: int) -> np.ndarray:
    """The input of the graph text, [1, L] int64, for the ids of a prompt."""
    record = source.text_record()
    assert record is not None, "a source with the graph has its record"
    return np.array([padded(prompt, length, record.pad, record.vocabulary)], np.int64)


def proof_ids(source: Source, n: int, length: int) -> list[np.ndarray]:
    """`prompt_ids` of `n` real prompts."""
    return [prompt_ids(source, prompt, length) for prompt in source.real_prompts(n, length)]


def text_input(model: ir.Model) -> ir.Value | None:
    """The input ``text`` [B, L, D] of an encoder; None where it reads no text."""
    return next((value for value in model.graph.inputs if value.name == TEXT), None)


def with_text(samples: list[Sample], model: ir.Model, source: Source | None = None) -> list[Sample]:
    """Inputs of an encoder; where `model` reads a text, each gets one that has none yet.

    Where `source` has the graph text, it is PyTorch's output for a real prompt. Otherwise three quarters of its rows
    are normal numbers, the same ones on every call, and the others are zeros.
    """
    text = text_input(model)
    if text is None or text.shape is None or text.dtype is None:
        return samples
    _, length, dim = text.shape
    assert isinstance(length, int) and isinstance(dim, int)
    graph = source.text(length) if source is not None else None
    if source is not None and graph is not None:
        import torch

        assert graph.module is not None
        ids = proof_ids(source, len(samples), length)
        with torch.no_grad():
            rows = np.stack([graph.module(torch.from_numpy(one)).numpy() for one in ids])
    else:
        rows = np.random.default_rng(0).standard_normal((len(samples), 1, length, dim))
        rows[:, :, max(1, int(_FILLED * length)) :] = 0
    return [{**sample, TEXT: sample.get(TEXT, row.astype(text.dtype.numpy()))} for sample, row in zip(samples, rows)]


def question_texts(source: Source, graph: ir.Model, prompts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """The output of a graph text for each prompt, [1, L, D]; equal prompts are run once."""
    from ...runtimes.ort.graph import ort_runner

    run, shape = ort_runner(graph, threads=1), graph.graph.inputs[0].shape
    assert shape is not None and isinstance(shape[1], int)
    length = shape[1]
    made = {ids: run({"input_ids": prompt_ids(source, ids, length)})[TEXT] for ids in {*map(tuple, prompts)}}
    return [made[tuple(prompt)] for prompt in prompts]


def refuse_text(compressor: Compressor, what: str, fix: str) -> None:
    """Raise `RequestError` for a compressor that reads text, where it would get no prompt's embeddings."""
    if TEXT in compressor.signals():
        raise RequestError(f"{compressor.method.name} reads a text, and {what}", fix=fix)


def check_place(source: Source, compressor: Compressor, found: Seam, own: Seam) -> None:
    """Raise `RequestError` where a compressor that reads text is at another seam than the one the text belongs to."""
    if found.tensor != own.tensor:
        refuse_text(
            compressor,
            f"the text of {source.name} is in the space of the tokens at {own.name}, not at {found.name}",
            "Leave --seam out; or add --parts encoder, and give the encoder a text of your own.",
        )
