"""Whisper's log-mel spectrogram in numpy: a sound becomes input_features.

1. Windows of n_fft samples, hop samples apart, centred on their frame, the ends mirrored; a periodic Hann window.
2. Power spectrum, then mel filters on Slaney's scale, each of area one.

Other models have a Hann window in the middle of n_fft samples, or filters of height one on HTK's scale:
2595 log10(1 + f / 700) mels.

3. log10, clamped to at most 8 below the largest value of the whole input, then (x + 4) / 4.

The frame after the last sample is dropped. (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak
Supervision", and its code; the scale is that of Slaney's Auditory Toolbox, 1998.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..bundle.manifest import LogMelRecord
from .audio import fitting

_FLOOR = 1e-10
_RANGE = 8.0

# Slaney: linear up to 1000 Hz, 15 mels, and from there 27 mels to every factor of 6.4.
_HERTZ_PER_MEL = 200 / 3
_KNEE = 1000.0
_LOG_STEP = np.log(6.4) / 27

# HTK: linear at first, logarithmic from about 700 Hz on.
_HTK_MELS = 2595.0
_HTK_HERTZ = 700.0


def input_features(waveform: np.ndarray, record: LogMelRecord) -> np.ndarray:
    """The encoder's input for one sound.

    Args:
        waveform: float32 or float64 [samples] at the record's sample rate, full scale 1. One with less than
            frames * hop samples is padded with silence.
        record: of the manifest.

    Returns:
        float32 [1, mels, frames].

    Raises:
        RequestError: empty, longer than the window, not one-dimensional, not floating point, or not finite.
    """
    return log_mel(fitting(waveform, record.samples, record.sample_rate)[None], record)


def log_mel(waveforms: np.ndarray, record: LogMelRecord) -> np.ndarray:
    """The spectrograms of whole windows: [B, frames * hop] floating point -> float32 [B, mels, frames]."""
    edge = record.n_fft // 2
    padded = np.pad(np.asarray(waveforms, np.float32), ((0, 0), (edge, edge)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, record.n_fft, axis=1)[:, :: record.hop]
    spectrum = np.fft.rfft(windows[:, : record.frames] * _hann(record.n_fft, record.window or record.n_fft), axis=2)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    mel = np.empty((*power.shape[:2], record.mels), np.float32)
    for i, (bins, weights) in enumerate(_bands(record.sample_rate, record.n_fft, record.mels, record.scale == "htk")):
        # Not by matrices: the threads of BLAS spin for a while after a product, on the cores that the encoder needs.
        mel[..., i] = np.einsum("...k,k", power[..., bins], weights)
    logs = np.log10(np.maximum(mel, _FLOOR))
    logs = np.maximum(logs, logs.max((1, 2), keepdims=True) - _RANGE)
    return np.ascontiguousarray(((logs + 4) / 4).transpose(0, 2, 1), np.float32)


def silence(features: np.ndarray, record: LogMelRecord) -> float:
    """Seconds of silence at the end of an encoder input, float32 [1, mels, frames]: frames in which nothing sounds."""
    sounding = np.flatnonzero((features > features.min()).any((0, 1)))
    still = features.shape[2] - (int(sounding[-1]) + 1 if sounding.size else 0)
    return still * record.hop / record.sample_rate


@lru_cache(maxsize=4)
def mel_filters(sample_rate: int, n_fft: int, mels: int, *, htk: bool = False) -> np.ndarray:
    """Triangular filters between 0 and half the sample rate, Slaney's or HTK's: float32 [n_fft // 2 + 1, mels]."""
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    to_mel, to_hertz = (_htk_mel, _htk_hertz) if htk else (_mel, _hertz)
    corners = to_hertz(np.linspace(to_mel(0.0), to_mel(sample_rate / 2), mels + 2))
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins[:, None] - low) / (middle - low)
    falling = (high - bins[:, None]) / (high - middle)
    height = 1 if htk else 2 / (high - low)
    return (np.maximum(0, np.minimum(rising, falling)) * height).astype(np.float32)


@lru_cache(maxsize=4)
def _bands(sample_rate: int, n_fft: int, mels: int, htk: bool) -> list[tuple[slice, np.ndarray]]:
    """Of each filter the frequencies that it weighs, and their weights; none where it lies between two of them."""
    filters = mel_filters(sample_rate, n_fft, mels, htk=htk).T
    weighed = [np.flatnonzero(row) for row in filters]
    spans = [slice(found[0], found[-1] + 1) if found.size else slice(0) for found in weighed]
    return [(span, row[span]) for span, row in zip(spans, filters)]


@lru_cache(maxsize=4)
def _hann(n_fft: int, length: int) -> np.ndarray:
    """In the middle of n_fft."""
    before = (n_fft - length) // 2
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return np.pad(window, (before, n_fft - length - before)).astype(np.float32)


def _mel(hertz: float) -> float:
    knee = _KNEE / _HERTZ_PER_MEL
    return hertz / _HERTZ_PER_MEL if hertz < _KNEE else float(knee + np.log(hertz / _KNEE) / _LOG_STEP)


def _htk_mel(hertz: float) -> float:
    return _HTK_MELS * float(np.log10(1 + hertz / _HTK_HERTZ))


def _htk_hertz(mels: np.ndarray) -> np.ndarray:
    return _HTK_HERTZ * (10 ** (mels / _HTK_MELS) - 1)


def _hertz(mels: np.ndarray) -> np.ndarray:
    knee = _KNEE / _HERTZ_PER_MEL
    return np.where(mels < knee, mels * _HERTZ_PER_MEL, _KNEE * np.exp(_LOG_STEP * (mels - knee)))
