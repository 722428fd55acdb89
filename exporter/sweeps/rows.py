"""The rows of a sweep and their cells: what is to be measured, and how. Nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from ...errors import RequestError, TokexportError
from ...graph_passes.budget import tokens_kept
from ...graph_passes.compressors import Compressor, changed, make, names, parameters
from ...version import __version__
from ..bundling.graphs import versions
from ..evaluate import resolution
from ..evaluate.accuracy import SEEDS, largest_keep
from ..evaluate.bench import Bench
from ..evaluate.judges import Judge
from ..evaluate.machine import machine
from .cells import Cell

BASELINES = ("uniform", "random", "pool")


class Budget(NamedTuple):
    """How many tokens are kept: by the share that is removed, or K itself."""

    ratio: str = ""
    keep: int | None = None

    def of(self, tokens: int) -> int:
        """K of so many; RequestError as `tokens_kept`."""
        return tokens_kept(tokens, ratio=self.ratio or None, keep=self.keep)


@dataclass
class Row:
    """A method at a budget. Where the method cannot run there, `reason` says why and there are no cells.

    Attributes:
        label: method and parameters, as after ``--method``.
        ratio: nothing where K was asked for.
        keep: tokens kept.
        reason: nothing where it can run.
        runs: cells of one figure with the size bias: a list of question seeds for each seed of the method.
        without: the same with the bias off; empty where nothing merges.
        encoder: times of the encoder.
        prefill: times of prefill.
        picture: height and width of smaller pictures, in pixels.
    """

    label: str
    compressor: Compressor | None
    ratio: str
    keep: int
    reason: str = ""
    runs: list[list[Cell]] = field(default_factory=list)
    without: list[Cell] = field(default_factory=list)
    encoder: list[Cell] = field(default_factory=list)
    prefill: list[Cell] = field(default_factory=list)
    picture: list[int] | None = None

    def cells(self) -> Iterator[Cell]:
        """All of them."""
        for run in self.runs:
            yield from run
        yield from (*self.without, *self.encoder, *self.prefill)

    def leave_out(self, reason: str) -> None:
        """Measure nothing of it."""
        self.reason = reason
        for cells in (self.runs, self.without, self.encoder, self.prefill):
            cells.clear()


class Plan:
    """Makes the rows of a sweep and their cells; nothing is computed here.

    Args:
        bench: of the model.
        judge: scores the encoded inputs.
        tried: whether every method is put into the graph first, to see that it can be; else it is taken for able.
    """

    def __init__(self, bench: Bench, judge: Judge, *, tried: bool = True) -> None:
        self._bench, self._judge, self._tried = bench, judge, tried
        self._generates = bench.source.generation(1) is not None
        # What a figure depends on; not the folder's path, but its content, which is in `facts`.
        self._key = {
            "source": bench.identity,
            "name": bench.source.name,
            **judge.facts,
            "versions": {"tokexport": __version__, **versions()},
            **({"seam": bench.base.where} if bench.base.where != "auto" else {}),
            **({"rebuild": True} if bench.base.rebuild else {}),
            **({"by_position": True} if bench.source.by_position else {}),
        }
        self._tokens = bench.base.seam(make("uniform")).tokens

    def uncompressed(self) -> Row:
        """All tokens."""
        row = self._row(make("uniform"), "", self._tokens, self._tokens)
        row.label = "uncompressed"
        return row

    def rows(self, asked: Sequence[Compressor], budget: Budget) -> Iterator[Row]:
        """The methods at a budget, and the baselines."""
        ratio = budget.ratio
        for compressor in asked:
            # A baseline with default parameters is added below anyway.
            if compressor not in [make(name) for name in BASELINES if name in names()]:
                yield self._asked(compressor, budget)
        keep = budget.of(self._tokens)
        yield self._row(make("uniform"), ratio, keep, keep)
        chance = self._row(make("random"), ratio, keep, keep)
        chance.runs = [self._figure(make("random", {"seed": seed}), keep, keep, True) for seed in range(SEEDS)]
        yield chance
        if "pool" in names():
            pool = make("pool")
            own = largest_keep(pool, self._bench.base.seam(pool), keep)
            reason = self._bench.refusal(pool, own) if own else f"reaches no number of tokens up to {keep}"
            if reason or own is None:
                yield Row(label(pool), pool, ratio, keep, reason)
            else:
                yield self._row(pool, ratio, own, keep)
        if self._bench.source.takes == "image":
            yield self._resolution(ratio, keep)
        if self._judge.oracle(self._judge.seeds[0], keep) is not None:
            for name, merge in (("oracle", False), ("oracle, merged", True)):
                yield Row(name, None, ratio, keep, runs=[self._oracle(keep, merge)])

    def _asked(self, compressor: Compressor, budget: Budget) -> Row:
        try:
            keep = budget.of(self._bench.model(compressor).seam(compressor).tokens)
        except TokexportError as error:
            return Row(label(compressor), compressor, budget.ratio, budget.of(self._tokens), str(error))
        reason = self._bench.refusal(compressor, keep) if self._tried else ""
        if reason:
            return Row(label(compressor), compressor, budget.ratio, keep, reason)
        return self._row(compressor, budget.ratio, keep, keep)

    def _resolution(self, ratio: str, keep: int) -> Row:
        """The largest smaller pictures of which the uncompressed encoder gives at most `keep` tokens."""
        bench, judge, seam = self._bench, self._judge, self._bench.base.seam(make("uniform"))
        if bench.base.rebuild:
            reason = "a smaller picture leaves the language model fewer tokens, and here it reads all"
            return Row(resolution.NAME, None, ratio, keep, reason)
        encoder, reason = resolution.smaller_encoder(bench.source, seam, keep)
        if encoder is None or encoder.grid is None:
            return Row(resolution.NAME, None, ratio, keep, reason)
        own = math.prod(encoder.grid)

        def of(seed: int) -> Callable[[], dict[str, float]]:
            def compute() -> dict[str, float]:
                question_set = judge.question_set(bench.base, seed)
                return judge.score(question_set, seam, resolution.encode(question_set, encoder), keep, seed)

            return compute

        cells = [
            self._cell("answers", None, own, of(seed), seed=seed, slots=keep, resolution=list(encoder.grid))
            for seed in judge.seeds
        ]
        pixels = next(iter(encoder.inputs.values())).shape[-2:]
        row = Row(resolution.NAME, None, ratio, own, runs=[cells], picture=[int(side) for side in pixels])
        return self._timed(row, lambda: bench.smaller_times(encoder), resolution=list(encoder.grid))

    def _row(self, compressor: Compressor, ratio: str, own: int, keep: int) -> Row:
        """`own` tokens in language graphs for `keep`."""
        row = Row(label(compressor), compressor, ratio, own, runs=[self._figure(compressor, own, keep, True)])
        bench = self._bench
        if compressor.method.merges and (self._generates or bench.source.answer):
            row.without = self._figure(compressor, own, keep, False)
        return self._timed(row, lambda: bench.times(compressor, own))

    def _timed(self, row: Row, encoder: Callable[[], dict[str, float]], **facts: Any) -> Row:
        """With the cells of its times; `encoder` measures those of the encoder."""
        # The folder may be moved to another machine: answers hold there too, times do not.
        here, bench = {"machine": machine()["machine"]}, self._bench
        row.encoder = [self._cell("encoder", row.compressor, row.keep, encoder, **facts, **here)]
        if self._generates:
            total, own = bench.leaving(self._tokens), bench.leaving(row.keep)
            # Only merged tokens have positions besides their own.
            apart = bench.source.by_position and row.compressor is not None and row.compressor.method.merges
            here |= {"merged": True} if apart else {}
            times = partial(bench.prefill_times, total, own, by_position=apart)
            row.prefill = [self._cell("prefill", None, own, times, **here)]
        return row

    def _figure(self, compressor: Compressor, own: int, keep: int, size_bias: bool) -> list[Cell]:
        bench, judge, slots = self._bench, self._judge, self._bench.leaving(keep)

        def of(seed: int) -> Callable[[], dict[str, float]]:
            def compute() -> dict[str, float]:
                model = bench.model(compressor)
                question_set, seam = judge.question_set(model, seed), model.seam(compressor)
                encoded = question_set.encode(seam, compressor, own, size_bias=size_bias, rebuild=model.rebuild)
                return judge.score(question_set, seam, encoded, slots, seed)

            return compute

        facts = {"size_bias": size_bias, "slots": slots}
        return [self._cell("answers", compressor, own, of(seed), seed=seed, **facts) for seed in judge.seeds]

    def _oracle(self, keep: int, merge: bool) -> list[Cell]:
        bench, judge = self._bench, self._judge

        def of(seed: int) -> Callable[[], dict[str, float]]:
            def compute() -> dict[str, float]:
                question_set, seam = judge.question_set(bench.base, seed), bench.base.seam(make("uniform"))
                kept = judge.oracle(seed, keep)
                assert kept is not None, "asked before"
                encoded = question_set.select(seam, kept, merge=merge, rebuild=bench.base.rebuild)
                return judge.score(question_set, seam, encoded, bench.leaving(keep), seed)

            return compute

        return [
            self._cell("answers", None, keep, of(seed), seed=seed, oracle=True, merge=merge) for seed in judge.seeds
        ]

    def _cell(self, what: str, compressor: Compressor | None, keep: int, compute: Any, **facts: Any) -> Cell:
        named = {
            "method": compressor.method.name if compressor else "",
            "params": parameters(compressor) if compressor else {},
        }
        return Cell({"what": what, **named, "keep": keep, **facts, **self._key}, compute)


def method_of(text: str) -> Compressor:
    """``apet`` or ``apet:merge=false,basis=16``.

    Raises:
        RequestError: another syntax, an unknown method or parameter, or a value out of range.
    """
    name, colon, rest = text.partition(":")
    params: dict[str, str] = {}
    for pair in rest.split(",") if colon else ():
        key, equals, value = pair.partition("=")
        if not equals or not key or key in params:
            raise RequestError(
                f"--method {text!r}: {pair!r} is not one parameter with its value",
                fix="Write for example --method apet:basis_slots=none,basis=16.",
            )
        params[key] = value
    return make(name, params)


def label(compressor: Compressor) -> str:
    """A method with its parameters other than the defaults, in the syntax of `method_of`."""
    other = [f"{key}={value}" for key, value in changed(compressor).items()]
    return compressor.method.name + (":" + ",".join(other) if other else "")
