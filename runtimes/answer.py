"""What `Session.generate` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# An end that says the same so often is no speech any more; people rarely say a thing four times.
_REPEATS = 4


@dataclass(frozen=True)
class Segment:
    """A part of a transcript, and when it was said: in seconds from the beginning of the sound."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Heard:
    """A piece of a sound that went through the encoder at once.

    Attributes:
        start: in seconds from the beginning of the sound.
        end: likewise.
        variant: of the bundle, whose window held it.
        slots: how many of `Answer.kept_indices` and `Answer.sizes` are its own.
    """

    start: float
    end: float
    variant: str
    slots: int


@dataclass(frozen=True)
class Answer:
    """What `Session.generate` returns.

    Attributes:
        text: the answer; empty where the bundle has no text processor.
        ids: of the answer, without prompt and `eos`.
        kept_indices: [K] int64, the position that each visual slot inherits; of a sound that was read in several
            pieces, or of several images, those of each, counted from its own beginning, one after the other.
        sizes: [K] float32, how many input tokens each slot stands for; likewise.
        finished: false where the token limit cut the answer off.
        notes: what a reader of the answer should know: the limit was reached, its end repeats itself, the sound is
            silent.
        language: of a transcript, where the model has languages: the code that was asked for or found.
        segments: of a transcript with times; None: none were asked for.
        pieces: of a transcript: the parts of the sound that were read one by one.
    """

    text: str
    ids: list[int]
    kept_indices: np.ndarray
    sizes: np.ndarray
    finished: bool = True
    notes: tuple[str, ...] = ()
    language: str | None = None
    segments: list[Segment] | None = None
    pieces: tuple[Heard, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object; what says nothing is left out: an answer that is finished, no notes, no language, ..."""
        said: dict[str, Any] = {"text": self.text, "ids": self.ids}
        if not self.finished:
            said["finished"] = False
        if self.notes:
            said["notes"] = list(self.notes)
        if self.language is not None:
            said["language"] = self.language
        if self.segments is not None:
            said["segments"] = [asdict(segment) for segment in self.segments]
        if self.pieces:
            said["pieces"] = [asdict(piece) for piece in self.pieces]
        return said | {"kept_indices": self.kept_indices.tolist(), "sizes": self.sizes.tolist()}


def repeated(ids: Sequence[int]) -> tuple[list[int], int] | None:
    """What the end of an answer repeats at least four times, and how often; None where it does not.

    Of several such ends, the one that fills most of the answer counts, and of those the shortest.
    """
    best: tuple[int, int, int] | None = None
    for length in range(1, len(ids) // _REPEATS + 1):
        unit, times = list(ids[-length:]), 1
        while list(ids[len(ids) - (times + 1) * length : len(ids) - times * length]) == unit:
            times += 1
        if times >= _REPEATS:
            best = max(best or (0, 0, 0), (length * times, -length, times))
    return None if best is None else (list(ids[best[1] :]), best[2])
