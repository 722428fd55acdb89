"""Waveforms as the encoder's input: those of transformers' feature extractor, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokexport.errors import RequestError
from tokexport.runtimes.bundle.manifest import WaveformRecord
from tokexport.runtimes.media.encoder_input import encoder_input
from tokexport.runtimes.media.waveform import input_values


def record(samples: int = 800, normalize: bool = True) -> WaveformRecord:
    return WaveformRecord(kind="waveform", sample_rate=16000, samples=samples, normalize=normalize)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 800), normalize=st.booleans())
def test_it_is_that_of_the_feature_extractor(seed: int, length: int, normalize: bool) -> None:
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(seed)
    sound = (rng.standard_normal(length) * 10 ** rng.uniform(-3, 0) + rng.uniform(-0.1, 0.1)).astype(np.float32)
    extract = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    theirs = extract(sound, sampling_rate=16000, padding="max_length", max_length=800, return_tensors="np").input_values
    ours = input_values(sound, record(normalize=normalize))
    assert ours.shape == theirs.shape == (1, 800) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_silence_behind_a_sound_is_not_normalised() -> None:
    values = input_values(np.array([1, 3], np.float32), record(4))
    np.testing.assert_allclose(values, [[-1, 1, 0, 0]], atol=1e-6)


def test_silence_stays_silence() -> None:
    np.testing.assert_array_equal(input_values(np.zeros(5, np.float32), record(8)), np.zeros((1, 8)))


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros(801, np.float32), r"at most 0\.05 s \(800 samples at 16000 Hz\)"),
        (np.zeros(10, np.int16), r"int16 \[10\]"),
        (np.array([0, np.inf], np.float32), "NaN or inf"),
        ("nowhere.wav", "no sound file nowhere.wav"),
        (7, "a int is not a sound"),
    ],
)
def test_what_is_no_waveform_is_refused(sound: object, message: str, tmp_path) -> None:
    pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    with pytest.raises(RequestError, match=message):
        encoder_input(sound, record(), tmp_path)  # type: ignore[arg-type]


def test_an_array_with_a_batch_axis_is_the_input_itself(tmp_path) -> None:
    ready = np.ones((1, 800), np.float32)
    assert encoder_input(ready, record(), tmp_path) is ready
