"""The log-mel spectrogram: the field's own on equal input, and what sounds it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokexport.errors import RequestError
from tokexport.runtimes.bundle.manifest import LogMelRecord
from tokexport.runtimes.media.log_mel import input_features, log_mel, mel_filters

RATE = 16000
SECOND = LogMelRecord(kind="log_mel", sample_rate=RATE, n_fft=400, hop=160, mels=80, frames=100)


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.05, 1.3, 2.0])
def test_it_is_that_of_the_whisper_feature_extractor(mels: int, seconds: float) -> None:
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(0)
    sound = tone(700, seconds) * 0.3 + rng.standard_normal(int(seconds * RATE)).astype(np.float32) * 0.01
    record = LogMelRecord(kind="log_mel", sample_rate=RATE, n_fft=400, hop=160, mels=mels, frames=200)
    extract = transformers.WhisperFeatureExtractor(feature_size=mels, chunk_length=2)
    theirs = extract(sound, sampling_rate=RATE, return_tensors="np").input_features
    ours = input_features(sound, record)
    assert ours.shape == theirs.shape == (1, mels, 200)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    mels=st.sampled_from([40, 80, 128]),
    n_fft=st.sampled_from([256, 400, 512, 1024]),
    hop=st.sampled_from([80, 160, 200]),
    level=st.sampled_from([1e-4, 1e-2, 1.0]),
)
def test_it_is_that_of_the_extractor_with_any_window(seed: int, mels: int, n_fft: int, hop: int, level: float) -> None:
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(seed)
    # Noise that comes and goes, as speech does, and silence behind it.
    length = int(rng.integers(1, 2 * RATE))
    sound = (rng.standard_normal(length) * level * (np.sin(np.arange(length) / 700) > -0.3)).astype(np.float32)
    frames = 2 * RATE // hop
    record = LogMelRecord(kind="log_mel", sample_rate=RATE, n_fft=n_fft, hop=hop, mels=mels, frames=frames)
    extract = transformers.WhisperFeatureExtractor(feature_size=mels, chunk_length=2, n_fft=n_fft, hop_length=hop)
    theirs = extract(sound, sampling_rate=RATE, return_tensors="np").input_features
    np.testing.assert_allclose(input_features(sound, record), theirs, atol=1e-4)


def test_speech_is_that_of_the_extractor() -> None:
    transformers = pytest.importorskip("transformers")
    from tokexport.exporter.zoo.tiny_asr.clips import clips

    record = LogMelRecord(kind="log_mel", sample_rate=RATE, n_fft=400, hop=160, mels=128, frames=3000)
    extract = transformers.WhisperFeatureExtractor(feature_size=128)
    for clip in clips():
        theirs = extract(clip.waveform(), sampling_rate=RATE, return_tensors="np").input_features
        np.testing.assert_allclose(input_features(clip.waveform(), record), theirs, atol=1e-4)


@pytest.mark.parametrize("window", [400, 401, 512])
def test_windows_inside_of_n_fft_and_filters_of_htk_are_those_of_torch(window: int) -> None:
    torch = pytest.importorskip("torch")
    filters = pytest.importorskip("transformers.audio_utils").mel_filter_bank(257, 80, 0.0, 8000.0, RATE)
    sound = tone(700) * 0.3 + np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.01
    shape = torch.hann_window(window)
    spectrum = torch.stft(torch.from_numpy(sound), 512, 160, window, shape, return_complex=True)
    mel = torch.from_numpy(filters.T).float() @ spectrum[:, :-1].abs() ** 2
    logs = mel.clip(min=1e-10).log10()
    theirs = (torch.maximum(logs, logs.max() - 8) + 4) / 4
    record = SECOND.model_copy(update={"n_fft": 512, "window": window, "scale": "htk"})
    np.testing.assert_allclose(input_features(sound, record)[0], theirs, atol=1e-4)


@pytest.mark.parametrize("hertz", [200, 1000, 3000, 7000])
def test_a_tone_is_loudest_in_the_filter_of_its_pitch(hertz: int) -> None:
    filters = mel_filters(RATE, 400, 80)
    expected = filters[round(hertz / (RATE / 400))].argmax()
    assert (input_features(tone(hertz), SECOND)[0, :, 10:-10].argmax(0) == expected).all()


def test_a_click_lies_in_the_frames_whose_windows_reach_it() -> None:
    click = np.zeros(RATE, np.float32)
    click[50 * 160] = 1
    (features,) = input_features(click, SECOND)
    heard = np.flatnonzero(features.max(0) > features.min())
    np.testing.assert_array_equal(heard, [49, 50, 51])


def test_every_filter_has_area_one_and_they_overlap_in_pairs() -> None:
    filters = mel_filters(RATE, 4000, 40)
    np.testing.assert_allclose(filters.sum(0) * (RATE / 4000), 1, atol=2e-2)
    assert ((filters > 0).sum(1) <= 2).all()


def test_silence_behind_a_short_sound_is_zeros() -> None:
    short = tone(440, 0.4)
    padded = np.concatenate([short, np.zeros(RATE - len(short), np.float32)])
    np.testing.assert_array_equal(input_features(short, SECOND), input_features(padded, SECOND))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), batch=st.integers(1, 4))
def test_windows_of_a_batch_do_not_see_each_other(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    sounds = rng.standard_normal((batch, RATE)) * 10 ** rng.uniform(-4, 0, (batch, 1))
    together = log_mel(sounds, SECOND)
    apart = [input_features(sound, SECOND)[0] for sound in sounds]
    np.testing.assert_allclose(together, apart, atol=1e-6)


def test_the_longest_sound_fits_and_one_sample_more_is_refused_with_the_limit() -> None:
    sound = tone(440, 2)
    assert input_features(sound[:RATE], SECOND).shape == (1, 80, 100)
    with pytest.raises(RequestError, match=r"lasts 1\.00 s.*at most 1 s \(16000 samples at 16000 Hz\).*shorter pieces"):
        input_features(sound[: RATE + 1], SECOND)


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(0, np.float32), "empty.*Record"),
        (np.zeros(10, np.int16), r"int16 \[10\]"),
        (np.zeros((2, 10), np.float32), r"float32 \[2, 10\]"),
        (np.array([0, np.nan], np.float32), "NaN or inf.*save it"),
        (np.array([0, np.inf], np.float32), "NaN or inf.*save it"),
    ],
)
def test_what_is_no_waveform_is_refused(sound: np.ndarray, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        input_features(sound, SECOND)
