"""Real speech for the proof of a recogniser: the committed clips of tiny-asr."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...runtimes.media.encoder_input import of_waveform
from ..zoo.tiny_asr.clips import clips

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import LogMelRecord, WaveformRecord

RATE = 16000

# One clip, all in a row, three: a window that is short of speech, and windows that it fills.
_IN_A_ROW = (1, 6, 3)


def spoken(n: int, samples: int) -> list[np.ndarray]:
    """`n` utterances of at most so many samples at `RATE`, float32, the same ones on every call.

    Each begins with another clip; each further round through the clips starts 0.1 s later.
    """
    recorded = [clip.waveform() for clip in clips()]
    made = []
    for i in range(n):
        first, skipped = i % len(recorded), i // len(recorded) * RATE // 10
        row = [recorded[(first + k) % len(recorded)][skipped:] for k in range(_IN_A_ROW[i % len(_IN_A_ROW)])]
        made.append(np.concatenate(row)[:samples])
    return made


def heard(n: int, name: str, record: LogMelRecord | WaveformRecord) -> list[dict[str, np.ndarray]]:
    """What an encoder with the input `name` takes for `n` windows of speech; see `spoken`."""
    return [{name: of_waveform(wave, record)} for wave in spoken(n, record.samples)]
