"""Language graphs that answer, and the encoded inputs that they answer about.

Language graphs are made for B = 1, and answer here for several questions at once, which on a CPU takes a quarter of the
time. Batches run side by side, one on each core on one thread: threads inside an operator are slower.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...errors import GraphError
from ...graph_passes.resize.stacked import stacked
from ...runtimes.bundle.manifest import CompressionRecord, GenerationRecord, SeamRecord, Variant
from ...runtimes.generate import greedy_batch
from ...runtimes.ort.graph import ort_runner

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..sources.source import Source

BATCH = 16
READ = ("embed", "prefill", "decode")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of S inputs.

    Attributes:
        tokens: [S, K, D].
        kept_indices: [S, K] int64.
        sizes: [S, K] float32, as the language model weighs the slots: 1 with the size bias off.
        assignment: [S, N] int64.
        of: [Q] int64, the row that each question reads.
        answer: [S, E] or [S, classes], of an encoder that gives the answer itself.
    """

    tokens: np.ndarray
    kept_indices: np.ndarray
    sizes: np.ndarray
    assignment: np.ndarray
    of: np.ndarray
    answer: np.ndarray | None = None

    def in_slots(self, keep: int) -> Encoded:
        """The same in `keep` >= K slots, for graphs that take so many.

        The last slot is repeated with a weight that is nothing beside any other: the logarithm, -87, leaves an exact
        zero behind a softmax. Under a causal mask no slot that counts sees the repeats.
        """
        own = self.sizes.shape[1]
        if own == keep:
            return self
        at = np.minimum(np.arange(keep), own - 1)
        sizes = self.sizes[:, at]
        sizes[:, own:] = np.finfo(np.float32).tiny
        return replace(self, tokens=self.tokens[:, at], kept_indices=self.kept_indices[:, at], sizes=sizes)


class Language:
    """The language graphs for K tokens.

    Args:
        models: embed (not with cross-attention), prefill and decode, for B = 1; other roles are ignored.
        generation: of the same K.
        batch: how many questions are asked at once. Graphs that cannot be proved to take several are asked one.

    Attributes:
        batch: how many questions are asked at once.
    """

    def __init__(self, models: Mapping[Any, ir.Model], generation: GenerationRecord, batch: int = BATCH) -> None:
        self.keep = generation.image_span[1]
        self.batch, read = _stacked({role: model for role, model in models.items() if role in READ}, batch)
        self._runs = {role: ort_runner(model, threads=1) for role, model in read.items()}
        record = CompressionRecord(
            method="",
            ratio="0",
            tokens_in=generation.tokens_in,
            tokens_out=self.keep,
            size_bias=True,
            seam=SeamRecord(kind="", graph="encoder", tensor=""),
        )
        self._read = generation.reads
        self._variant = Variant(name="exam", compression=[record], graphs={}, generation=generation)

    @classmethod
    def export(cls, source: Source, keep: int, batch: int = BATCH) -> Language:
        """Export the language graphs of `source` for K = `keep`."""
        from ..sources.torch_export import export_graph

        models = {graph.role: export_graph(graph) for graph in source.language(keep)}
        generation = source.generation(keep)
        assert generation is not None, "a source with language graphs says how they generate"
        return cls(models, generation, batch)

    def answer(self, encoded: Encoded, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Ids of the answer to each of Q prompts (ids, `bos` included)."""
        encoded = encoded.in_slots(self.keep)

        def one(start: int) -> list[list[int]]:
            # The last batch is filled up with its last question.
            asked = np.minimum(np.arange(start, start + self.batch), len(prompts) - 1)
            rows = encoded.of[asked]
            fed = {name: getattr(encoded, name)[rows] for name in self._read}
            said, _, _ = greedy_batch(self._run, self._variant, fed, [prompts[question] for question in asked])
            return said[: len(prompts) - start]

        batches = side_by_side(one, range(0, len(prompts), self.batch))
        return [said for batch in batches for said in batch]

    def _run(self, role: str, /, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return self._runs[role](inputs)


def _stacked(models: dict[Any, ir.Model], batch: int) -> tuple[int, dict[Any, ir.Model]]:
    try:
        return batch, {role: stacked(model, batch) for role, model in models.items()}
    except GraphError:
        # A model of the user's own may have operators that no rule knows; the answers are the same one by one.
        return 1, models


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function` of every item, as many at once as there are `cores`."""
    with ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(function, items))


def cores() -> int:
    """How many are used: as many as ``OMP_NUM_THREADS`` says, which torch obeys too; else all."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else os.cpu_count() or 1
