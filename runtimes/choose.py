"""Which token comes next: the most likely one among those that the rules of the bundle allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import GraphError
from .bundle.manifest import GenerationRecord


@dataclass(frozen=True)
class TimeRules:
    """How a transcript with times is written, as by Whisper (`WhisperTimeStampLogitsProcessor` of transformers).

    It begins with a time; a time stands before a text, and another one behind it; times never go back; and where all
    times together are likelier than the likeliest other token, it is a time.

    Attributes:
        first: id of 0.00 s; all ids from it on are times.
        no_timestamps: id that says that no times are wanted.
        eos: ids below it are text.
        latest_start: the first time is at most so many ids after `first`; None: any.
    """

    first: int
    no_timestamps: int
    eos: int
    latest_start: int | None = None

    def apply(self, scores: np.ndarray, said: Sequence[Sequence[int]]) -> None:
        """Set what may not come next to -inf: in `scores` [B, V] float32, after the ids `said` of each answer."""
        scores[:, self.no_timestamps] = -np.inf
        for row, ids in zip(scores, said):
            self._in_pairs(row, ids)
        if not any(said):
            scores[:, : self.first] = -np.inf
            if self.latest_start is not None:
                scores[:, self.first + self.latest_start + 1 :] = -np.inf
        with np.errstate(invalid="ignore"):
            likelier = _logsumexp(scores[:, self.first :]) > scores[:, : self.first].max(1)
        scores[likelier, : self.first] = -np.inf

    def _in_pairs(self, row: np.ndarray, ids: Sequence[int]) -> None:
        times = [i for i in ids if i >= self.first]
        ends_in_time = bool(ids) and ids[-1] >= self.first
        # What stands before the first time counts as a time: a transcript begins with a single one.
        second_too = len(ids) < 2 or ids[-2] >= self.first
        if ends_in_time:
            if second_too:
                row[self.first :] = -np.inf
            else:
                row[: self.eos] = -np.inf
        if times:
            closes = ends_in_time and not second_too
            row[self.first : times[-1] + (0 if closes else 1)] = -np.inf


@dataclass(frozen=True)
class Rules:
    """What may be chosen.

    Attributes:
        suppress: ids that are never chosen.
        begin_suppress: ids that are not chosen as the first of an answer.
        times: None: the answer has none.
        only: nothing but these ids may be chosen; empty: all.
    """

    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    times: TimeRules | None = None
    only: tuple[int, ...] = ()

    @classmethod
    def of(cls, record: GenerationRecord, *, timestamps: bool = False) -> Rules:
        """Those of a bundle; with `timestamps`, of a transcript with times, which its speech record must have."""
        times = None
        if timestamps:
            speech = record.speech
            assert speech and speech.timestamps is not None and speech.no_timestamps is not None, "checked by `asked`"
            times = TimeRules(speech.timestamps, speech.no_timestamps, min(record.eos), speech.latest_start)
        return cls(tuple(record.suppress), tuple(record.begin_suppress), times)

    def apply(self, scores: np.ndarray, said: Sequence[Sequence[int]]) -> np.ndarray:
        """The scores [B, V] float32, with -inf where an id may not follow the ids `said` of each answer."""
        if not (self.suppress or self.begin_suppress or self.times or self.only):
            return scores
        scores = scores.copy()
        if self.only:
            allowed = np.zeros(scores.shape[1], bool)
            allowed[list(self.only)] = True
            scores[:, ~allowed] = -np.inf
        scores[:, list(self.suppress)] = -np.inf
        if not any(said):
            scores[:, list(self.begin_suppress)] = -np.inf
        if self.times:
            self.times.apply(scores, said)
        return scores


def choose(
    logits: np.ndarray, going: np.ndarray, said: Sequence[Sequence[int]], rules: Rules, role: str, cure: str
) -> np.ndarray:
    """The most likely token of each row [B] int64 that the rules allow; ties go to the lowest id.

    Args:
        logits: of B rows.
        going: [B] bool; what is in the other rows does not matter.
        said: ids of each answer so far.
        rules: of the bundle.
        role: of the graph that the logits are of, for messages.
        cure: what to do where they are NaN.

    Raises:
        GraphError: one is NaN in a row that is still going, or the largest that the rules allow is infinite.
    """
    rows = np.asarray(logits, np.float32).reshape(len(going), -1)
    missing = np.isnan(rows).sum(1) * going
    if missing.any():
        raise GraphError(
            f"{missing.max()} of {rows.shape[1]} logits are NaN at token {max(map(len, said))}",
            where=f"output logits of {role}",
            fix=cure,
        )
    scores = rules.apply(rows, said)
    best = scores.max(1)
    lost = np.flatnonzero(~np.isfinite(best) & going)
    if lost.size:
        raise GraphError(
            f"the best of {rows.shape[1]} logits is {best[lost[0]]} at token {len(said[lost[0]])}: none can be chosen",
            where=f"output logits of {role}",
            fix=cure,
        )
    return scores.argmax(1)


def _logsumexp(scores: np.ndarray) -> np.ndarray:
    """[B] of [B, n] float32; -inf where all of a row are."""
    most = scores.max(1, keepdims=True)
    most[np.isneginf(most)] = 0
    with np.errstate(divide="ignore"):
        return np.log(np.exp(scores - most).sum(1)) + most[:, 0]
