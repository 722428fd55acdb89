"""A waveform as the encoder's input, as the feature extractor of Wav2Vec2 and Moonshine gives it."""

from __future__ import annotations

import numpy as np

from ..bundle.media_records import WaveformRecord
from .audio import fitting

# Under the root, so that silence is not divided by zero.
_LEAST_VARIANCE = 1e-7


def input_values(waveform: np.ndarray, record: WaveformRecord) -> np.ndarray:
    """The encoder's input for one sound.

    Args:
        waveform: float32 or float64 [samples] at the record's sample rate, full scale 1. One with less than the
            record's samples is padded with silence.
        record: of the manifest.

    Returns:
        float32 [1, samples].

    Raises:
        RequestError: empty, longer than the window, not one-dimensional, not floating point, or not finite.
    """
    whole = fitting(waveform, record.samples, record.sample_rate).astype(np.float32)
    if record.normalize:
        heard = whole[: waveform.size]
        heard[:] = (heard - heard.mean()) / np.sqrt(heard.var() + _LEAST_VARIANCE)
    return whole[None]
