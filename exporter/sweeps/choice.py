"""Which row of a sweep to take: the Pareto set of loss, time and tokens, and one recommendation with its why.

The loss is the figure of the uncompressed model minus that of the row, and the time that of the encoder with its
compressor and of prefill. Two losses are told apart by the standard errors of both. A figure that is a share of right
answers has at least the error of one answer: three inputs of three are not known better than a third.

The rules:

1. Tokens: the least loss at exactly K tokens. Latency: the least loss of what is fast enough. What is within one
   standard error of the least loses as little, and the fastest of that is taken.
2. Loss: the fastest of what loses at most so much, with one standard error counted against it.
3. A baseline (evenly spread tokens, pooling, a smaller picture) is taken unless a method is clearly better, by two
   standard errors, than all of them and than as many random tokens. Where a loss is asked for, a method must lose less
   than both kinds of as many tokens, and be faster than every baseline that is allowed, by a twentieth.
4. A model that is fast enough as it is needs no compressor, and one that is not faster than that is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RequestError
from ..evaluate.resolution import NAME as RESOLUTION
from ..evaluate.usefulness import ERRORS

TIE = 1
AS_FAST = 0.05
_PLAIN = {
    RESOLUTION: "a smaller picture",
    "uniform": "evenly spread tokens",
    "pool": "pooling",
    "random": "random tokens",
}


@dataclass(frozen=True)
class Goal:
    """What is asked for; exactly one of them.

    Attributes:
        tokens: K.
        latency_ms: milliseconds of this machine, of the encoder and prefill.
        loss: in the units of the figure.
    """

    tokens: int | None = None
    latency_ms: float | None = None
    loss: float | None = None

    def check(self) -> None:
        """Refuse none, several, and numbers that are no goal.

        Raises:
            RequestError: as said.
        """
        given = [value for value in (self.tokens, self.latency_ms, self.loss) if value is not None]
        if len(given) != 1:
            raise RequestError(
                f"{'several goals are' if given else 'no goal is'} given",
                fix="Give one of --tokens K, --latency-ms L and --loss X.",
            )
        if self.latency_ms is not None and not 0 < self.latency_ms < math.inf:
            raise RequestError(f"--latency-ms {self.latency_ms} is no time", fix="Write milliseconds: --latency-ms 20.")
        if self.loss is not None and not 0 < self.loss < 1:
            raise RequestError(
                f"--loss {self.loss} is outside (0, 1)",
                fix="Write the share that may be lost: --loss 0.01 is one answer of a hundred.",
            )


@dataclass(frozen=True)
class Point:
    """A row as it is compared: less is better.

    Attributes:
        row: of sweep.json.
        loss: of the figure.
        error: standard error of `loss`.
        ms: encoder with compressor, and prefill.
    """

    row: dict[str, Any]
    loss: float
    error: float
    ms: float

    @property
    def keep(self) -> int:
        """Tokens."""
        return int(self.row["keep"])

    @property
    def name(self) -> str:
        """The method."""
        return str(self.row["method"])

    @property
    def plain(self) -> bool:
        """Whether it is a baseline."""
        return bool(self.row["baseline"])

    @property
    def text(self) -> str:
        """The method with its tokens and its loss."""
        said = f"{_PLAIN[self.name]} ({self.name})" if self.name in _PLAIN else self.name
        return f"{said}, {self.keep} tokens: {self.loss:.3f} ± {self.error:.3f}"

    def worse(self, other: Point, errors: float) -> bool:
        """Whether it loses more than `other`, by more than so many standard errors of the difference."""
        return self.loss - other.loss > errors * math.hypot(self.error, other.error)

    def dominated(self, by: Point) -> bool:
        """Whether `by` is nowhere worse and somewhere better."""
        mine, others = (self.loss, self.ms, self.keep), (by.loss, by.ms, by.keep)
        return mine != others and all(one >= other for one, other in zip(mine, others))


@dataclass(frozen=True)
class Chosen:
    """The recommendation.

    Attributes:
        point: None where nothing reaches the goal.
        why: of the choice, or what is missing.
    """

    point: Point | None
    why: str


class Points:
    """The rows of a sweep as points.

    Args:
        result: the content of sweep.json.

    Attributes:
        whole: the uncompressed model.
        every: the methods and baselines that have a time, without the random ones.
        chance: random tokens, by ratio.
    """

    def __init__(self, result: dict[str, Any]) -> None:
        self._figure, self._least = result["figure"], least_error(result)
        full = result["uncompressed"]
        self._full = float(full[self._figure])
        self.whole = self._point(full)
        timed = [row for row in result["rows"] if self._figure in row and "encoder_ms" in row]
        made = [self._point(row) for row in timed]
        self.every = [point for point in made if point.name.partition(":")[0] != "random"]
        self.chance = {point.row["ratio"]: point for point in made if point.name == "random"}

    def pareto(self) -> list[Point]:
        """What nothing else is better than in loss, time and tokens at once."""
        return [one for one in self.every if not any(one.dominated(other) for other in self.every)]

    def mark(self) -> None:
        """Add ``loss``, ``error``, ``ms`` and ``pareto`` to the rows."""
        best = self.pareto()
        for one in (self.whole, *self.every, *self.chance.values()):
            one.row.update(loss=one.loss, error=one.error, ms=one.ms, pareto=one in best)

    def at(self, point: Point, names: Iterable[str]) -> list[Point]:
        """Of these names, what was measured at the budget of a point."""
        found = [one for one in self.every if one.row["ratio"] == point.row["ratio"] and one.name in names]
        chance = self.chance.get(point.row["ratio"])
        return [*found, *([chance] if chance else [])]

    def _point(self, row: dict[str, Any]) -> Point:
        error = max(float(row["stderr"]), self._least)
        return Point(row, self._full - row[self._figure], error, row["encoder_ms"] + row.get("prefill_ms", 0.0))


def least_error(result: dict[str, Any]) -> float:
    """The smallest error that a figure can have: one answer of all, where answers are counted; else 0."""
    if result["figure"] == "cosine" or result.get("agreement") == "words":
        return 0.0
    return 1 / (result["questions"] * result["seeds"] if "questions" in result else result["inputs"])


def choose(points: Points, goal: Goal, *, smaller_pictures: bool = True) -> Chosen:
    """The recommendation; without `smaller_pictures` what else there is."""
    every = [one for one in points.every if smaller_pictures or one.name != RESOLUTION]
    if goal.loss is not None:
        return _fastest(points, every, goal.loss)
    if goal.tokens is not None:
        return _best(points, [one for one in every if one.plain or one.keep == goal.tokens], f"at {goal.tokens} tokens")
    assert goal.latency_ms is not None, "checked before"
    within = f"within {goal.latency_ms:g} ms"
    if points.whole.ms <= goal.latency_ms:
        return Chosen(points.whole, f"The uncompressed model is {within}: it needs no compressor.")
    fitting = [one for one in every if one.ms <= goal.latency_ms]
    if fitting or not every:
        return _best(points, fitting, within)
    fastest = min(every, key=lambda one: one.ms)
    over = fastest.ms - goal.latency_ms
    return Chosen(
        None,
        f"Nothing is {within} on this machine. The fastest is {fastest.name} with {fastest.keep} tokens: it takes "
        f"{fastest.ms:.2f} ms and misses by {over:.2f} ms, which is {over / goal.latency_ms:.0%} of the goal.",
    )


def _best(points: Points, fitting: Sequence[Point], where: str) -> Chosen:
    """Rules 1 and 3."""
    plain, methods = _parted(fitting)

    def rivals(one: Point) -> list[Point]:
        return [*plain, *(other for other in points.at(one, ["uniform"]) if other not in plain)]

    worth = [one for one in methods if all(other.worse(one, ERRORS) for other in rivals(one))]
    if worth:
        best, taken = min(worth, key=_order), _least(worth)
        why = f"Of {len(methods)} methods {where} {best.name} loses least."
        if taken is not best:
            why = f"{why} {taken.text} is within one standard error of {best.text}, and faster."
        return Chosen(taken, why)
    least = _least(plain) if plain else None
    if not methods:
        return Chosen(least, f"No method is {where}, only baselines are." if plain else f"Nothing is {where}.")
    best = min(methods, key=_order)
    against = [other.text for other in rivals(best) if not other.worse(best, ERRORS)]
    why = f"No method {where} is clearly better than what needs none. The best is {best.text}; {'; '.join(against)}."
    return Chosen(least, why if least else f"{why} Nothing can be recommended.")


def _fastest(points: Points, every: Sequence[Point], most: float) -> Chosen:
    """Rules 2 to 4."""
    limit = points.whole.ms * (1 - AS_FAST)
    allowed = [one for one in every if one.loss + one.error <= most and one.ms < limit]
    fair = [one for one in allowed if one.plain or all(one.loss < it.loss for it in points.at(one, ["uniform"]))]
    said = f"loses at most {most:g} with one standard error"
    if not fair:
        best = min(every, key=lambda one: one.loss + one.error, default=None)
        least = f" The least loss has {best.text}, in {best.ms:.2f} ms." if best else ""
        return Chosen(
            None, f"Nothing {said} and is faster than the uncompressed model ({points.whole.ms:.2f} ms).{least}"
        )
    first = min(fair, key=lambda one: one.ms)
    plain = [one for one in fair if one.plain and one.ms <= first.ms * (1 + AS_FAST)]
    if not first.plain and plain:
        taken = min(plain, key=lambda one: one.ms)
        return Chosen(taken, f"Of what {said}, no method is clearly faster than what needs none: {taken.text}.")
    why = f"The fastest of {len(fair)} that lose at most {most:g} with one standard error."
    near = [one for one in points.at(first, ["uniform"]) if not first.plain and not one.worse(first, ERRORS)]
    if near:
        why = f"{why} It is not clearly better than {' and '.join(one.text for one in near)}."
    return Chosen(first, why)


def _parted(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    return [one for one in points if one.plain], [one for one in points if not one.plain]


def _order(point: Point) -> tuple[float, float]:
    return point.loss, point.ms


def _least(points: Sequence[Point]) -> Point:
    """The fastest of those whose loss is not told apart from the least."""
    best = min(points, key=_order)
    return min((one for one in points if not one.worse(best, TIE)), key=lambda one: one.ms)
