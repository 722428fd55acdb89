"""What a sweep measures with: one model, opened once, whose graphs are made when a figure first needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

from ...errors import TokexportError
from ...graph_passes.compressors import Compressor, make
from ...graph_passes.insertion.sequence import Step, places
from ...runtimes.ort.graph import ort_runner
from ..bundling import graphs
from ..proof.parity import between
from ..sources.texts import with_text
from ..timing import interleaved
from .accuracy import refusal
from .answers import Language
from .known import graph_hash
from .question_set import compressor_node, put
from .resolution import resized

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from ...graph_passes.insertion.insert import Inserted
    from ...graph_passes.seams.seam import Seam
    from ..sources.source import GraphSource, Source

ROUNDS = 30


@dataclass(frozen=True)
class Model:
    """A source with its uncompressed encoder graph.

    Attributes:
        where: the name of a seam, or ``auto``: that of the method.
        rebuild: whether tokens are put back at their places behind the encoder's last layer.
    """

    source: Source
    encoder: ir.Model
    where: str = "auto"
    rebuild: bool = False

    def seam(self, compressor: Compressor) -> Seam:
        """Where the method goes in this model: see `Source.seam_for`.

        Raises:
            RequestError: the model has no such place.
        """
        step = Step(compressor, None, 1, self.where, rebuild=self.rebuild)
        return places(self.encoder, [step], self.source.seam_for)[0]

    def compressed(self, compressor: Compressor, keep: int) -> tuple[ir.Model, Inserted]:
        """The encoder graph with the method in it.

        Raises:
            RequestError, GraphError: as `seam` and `question_set.put`.
        """
        graph = self.encoder.clone()
        return graph, put(graph, self.seam(compressor), compressor, keep, rebuild=self.rebuild)


class Bench:
    """The graphs of a source, in fp32.

    Args:
        source: with its language graphs, where it has them.
        seam: where all methods go; ``auto``: each where its paper has it.
        rebuild: put the tokens back at their places behind the encoder's last layer.

    Raises:
        RequestError, GraphError: tokens cannot be rebuilt behind that seam.
    """

    def __init__(self, source: Source, seam: str = "auto", rebuild: bool = False) -> None:
        self.source = source
        self.base = Model(source, graphs.encoder(source, "fp32")[0], seam, rebuild)
        self._rebuilt = self.base.compressed(make("uniform"), 1)[1].leaving if rebuild else None
        self._prepared: dict[Compressor, Model] = {}
        # A sweep goes through its numbers of tokens in turn.
        self.language = lru_cache(maxsize=2)(partial(Language.export, source))
        self._prefill = lru_cache(maxsize=4)(self._prefill_of)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the weights; of a module, which has no file of them, of its encoder graph."""
        if self.source.sha256:
            return self.source.sha256
        return graph_hash(self.base.encoder)

    def model(self, compressor: Compressor) -> Model:
        """The source as `compressor` needs it."""
        source = self.source.prepared(compressor)
        if source is self.source:
            return self.base
        if compressor not in self._prepared:
            self._prepared[compressor] = replace(self.base, source=source, encoder=graphs.encoder(source, "fp32")[0])
        return self._prepared[compressor]

    def leaving(self, keep: int) -> int:
        """How many tokens leave the encoder where `keep` are kept at the seam: all where they are rebuilt."""
        return self._rebuilt or keep

    def refusal(self, compressor: Compressor, keep: int) -> str:
        """Why `compressor` cannot keep `keep` tokens of this model, or nothing."""
        try:
            model = self.model(compressor)
            refused = refusal(compressor, model.seam(compressor), keep)
            if not refused:
                model.compressed(compressor, keep)
        except TokexportError as error:
            return str(error)
        return refused

    def times(self, compressor: Compressor, keep: int) -> dict[str, float]:
        """Milliseconds at B = 1 on one thread: the encoder without and with the compressor, and its node alone."""
        compressed, inserted = self.model(compressor).compressed(compressor, keep)
        node = compressor_node(compressed, inserted)
        read = [value.name or "" for value in node.inputs if value is not None]
        plain = self.source.real_inputs(1)[0]
        (sample,) = with_text([plain], compressed, self.source)
        seen = [name for name in read if name not in sample]
        reached = {**sample, **ort_runner(between(compressed, list(plain), seen))(plain)}
        reached = {name: reached[name] for name in read}
        alone = between(compressed, read, [value.name or "" for value in node.outputs])
        runs = {
            "uncompressed_ms": partial(ort_runner(self.base.encoder, threads=1), plain),
            "encoder_ms": partial(ort_runner(compressed, threads=1), sample),
            "compressor_ms": partial(ort_runner(alone, threads=1), reached),
        }
        return interleaved(runs, ROUNDS)

    def smaller_times(self, encoder: GraphSource) -> dict[str, float]:
        """Milliseconds at B = 1 on one thread: the encoder, and the one for smaller pictures."""
        import torch

        from ..sources.torch_export import export_graph

        plain = self.source.real_inputs(1)[0]
        ((name, wanted),) = encoder.inputs.items()
        smaller = {name: resized(torch.from_numpy(plain[name]), (wanted.shape[-2], wanted.shape[-1])).numpy()}
        runs = {
            "uncompressed_ms": partial(ort_runner(self.base.encoder, threads=1), plain),
            "encoder_ms": partial(ort_runner(export_graph(encoder), threads=1), smaller),
        }
        return interleaved(runs, ROUNDS)

    def prefill_times(self, tokens: int, keep: int, *, by_position: bool = False) -> dict[str, float]:
        """Milliseconds of prefill at B = 1 on one thread, for all `tokens` and for `keep` of them.

        Args:
            tokens: N.
            keep: K.
            by_position: whether these are read at the positions of all that is in them.
        """
        runs = {"uncompressed_ms": self._prefill(tokens, False), "prefill_ms": self._prefill(keep, by_position)}
        return interleaved(runs, ROUNDS)

    def _prefill_of(self, keep: int, by_position: bool) -> Callable[[], Any]:
        from ..sources.torch_export import export_graph

        alike = self.source.by_position == by_position
        source = self.source if alike else replace(self.source, by_position=by_position)
        graph = next(graph for graph in source.language(keep) if graph.role == "prefill")
        feeds: dict[str, np.ndarray] = {name: value.numpy() for name, value in graph.inputs.items()}  # type: ignore[union-attr]
        return partial(ort_runner(export_graph(graph), threads=1), feeds)
