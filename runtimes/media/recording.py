"""Long sounds, piece by piece: cut where nobody speaks, with one piece in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

# A file may unpack to any length: a day of silence is a few kilobytes of FLAC.
LONGEST_SECONDS = 12 * 3600
# A word has gaps of 50 ms, as before a "p"; a pause between words is longer.
_PAUSE_SECONDS = 0.2
_FRAME_SECONDS = 0.02
# -60 dB below full scale: below the noise of a quiet room through any microphone.
SILENCE = 1e-3


@dataclass(frozen=True)
class Piece:
    """A part of a sound.

    Attributes:
        start: in samples from the beginning of the sound.
        samples: float32 [n].
        last: whether nothing follows.
    """

    start: int
    samples: np.ndarray
    last: bool

    @property
    def end(self) -> int:
        """In samples from the beginning of the sound."""
        return self.start + len(self.samples)


def pieces(blocks: Iterable[np.ndarray], room: int, sample_rate: int) -> Iterator[Piece]:
    """Cut a sound into pieces of at most `room` samples, each at the quietest place of the last third of its room.

    Args:
        blocks: float32 [samples] each, of any length.
        room: samples, at least 1.
        sample_rate: in hertz.
    """
    held, start = np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > room:
            at = quietest(held[:room], sample_rate)
            yield Piece(start, held[:at], last=False)
            held, start = held[at:], start + at
    if len(held):
        yield Piece(start, held, last=True)


def quietest(samples: np.ndarray, sample_rate: int) -> int:
    """Where to cut: the middle of the quietest pause in the last third, of equal ones the last; at least 1."""
    first, frame = len(samples) * 2 // 3, max(1, round(sample_rate * _FRAME_SECONDS))
    energy = _energy(samples[first:], frame)
    if not len(energy):
        return len(samples)
    width = min(len(energy), round(_PAUSE_SECONDS / _FRAME_SECONDS))
    level = np.convolve(energy, np.ones(width), mode="valid")
    # The last: the piece keeps its silence, by which the model knows that it is at its end.
    best = len(level) - 1 - int(level[::-1].argmin())
    return first + best * frame + (width * frame + 1) // 2


def is_silent(samples: np.ndarray, sample_rate: int) -> bool:
    """Whether no 20 ms of float [samples] are louder than `SILENCE`, their root mean square."""
    frame = max(1, round(sample_rate * _FRAME_SECONDS))
    whole = np.pad(samples, (0, -len(samples) % frame))
    return bool(_energy(whole, frame).max(initial=0) < SILENCE**2)


def _energy(samples: np.ndarray, frame: int) -> np.ndarray:
    """The mean square of each whole frame, float64."""
    count = len(samples) // frame
    return (samples[: count * frame].reshape(count, frame).astype(np.float64) ** 2).mean(1)
