"""Long sounds in pieces: nothing is lost, pieces fit, cuts lie where nobody speaks, and memory is bounded."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_speech
from hypothesis import given, settings
from hypothesis import strategies as st
from tokexport.errors import RequestError
from tokexport.runtimes import transcribe
from tokexport.runtimes.load import load
from tokexport.runtimes.media.audio import open_sound, read_sound
from tokexport.runtimes.media.recording import is_silent, pieces, quietest

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
RATE = 1000


def noise(seconds: float, level: float = 1.0, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).uniform(-1, 1, round(seconds * RATE))).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 400), max_size=12), room=st.integers(1, 300), rate=st.sampled_from([1, 50, RATE])
)
def test_pieces_are_the_sound_and_each_fits(lengths: list[int], room: int, rate: int) -> None:
    blocks = [noise(length / RATE, seed=i) for i, length in enumerate(lengths)]
    found = list(pieces(blocks, room, rate))
    whole = np.concatenate([np.zeros(0, np.float32), *blocks])
    np.testing.assert_array_equal(np.concatenate([whole[:0], *(piece.samples for piece in found)]), whole)
    assert all(1 <= len(piece.samples) <= room for piece in found)
    assert [piece.start for piece in found] == np.cumsum([0, *(len(p.samples) for p in found)])[: len(found)].tolist()
    assert [piece.last for piece in found] == [False] * (len(found) - 1) + [True] * bool(found)


@settings(max_examples=50, deadline=None)
@given(at=st.integers(2100, 2700), seed=st.integers(0, 99))
def test_a_cut_lies_in_the_pause_of_the_last_third(at: int, seed: int) -> None:
    sound = noise(3, seed=seed)
    sound[at : at + 240] *= 1e-3
    assert at <= quietest(sound, RATE) <= at + 240


def test_a_pause_before_the_last_third_does_not_make_a_short_piece() -> None:
    sound = noise(3)
    sound[1000:1500] = 0
    assert quietest(sound, RATE) >= 2000


def test_a_gap_inside_a_word_is_no_pause() -> None:
    sound = noise(3)
    sound[2100:2150] = 0
    sound[2500:2720] *= 0.05
    assert 2500 <= quietest(sound, RATE) <= 2720


def test_of_equal_pauses_the_last_one_is_taken() -> None:
    sound = noise(3)
    sound[2050:2300] = sound[2600:2900] = 0
    assert 2700 <= quietest(sound, RATE) <= 2900


@pytest.mark.parametrize(("level", "silent"), [(0, True), (9e-4, True), (2e-3, False)])
def test_silence_is_what_no_microphone_hears(level: float, silent: bool) -> None:
    assert is_silent(np.full(5000, level, np.float32), RATE) is silent
    assert is_silent(np.zeros(0, np.float32), RATE)


def test_a_short_word_in_silence_is_heard() -> None:
    sound = np.zeros(30 * RATE, np.float32)
    sound[-30:] = 0.01
    assert not is_silent(sound, RATE)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_blocks_are_the_whole_file_at_another_rate(tmp_path: Path, rate: int) -> None:
    import soxr

    sound = np.sin(np.arange(rate * 9) / 50).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, rate, subtype="FLOAT")
    with open_sound(tmp_path / "a.wav", 16000, 16000 * 10) as opened:
        blocks = list(opened.blocks)
    assert opened.seconds == 9
    assert len(blocks) > 1 and all(len(block) <= 1 << 17 for block in blocks)
    whole = sound if rate == 16000 else soxr.resample(sound, rate, 16000)
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("suffix", "subtype", "near"),
    [("wav", "PCM_U8", 1e-2), ("wav", "PCM_16", 1e-4), ("wav", "PCM_24", 1e-4), ("wav", "DOUBLE", 1e-4),
     ("wav", "ULAW", 2e-2), ("flac", "PCM_24", 1e-4)],
)  # fmt: skip
def test_stereo_of_every_width_at_44_kilohertz_is_the_same_sound(
    tmp_path: Path, suffix: str, subtype: str, near: float
) -> None:
    time = np.arange(44100) / 44100
    left, right = 0.6 * np.sin(2 * np.pi * 440 * time), 0.2 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([left, right], 1), 44100, subtype=subtype)
    wanted = 0.4 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    found = read_sound(tmp_path / f"a.{suffix}", 16000)
    np.testing.assert_allclose(found[500:-500], wanted[500:-500], atol=near + 1e-3)


def _hour(path: Path, seconds: int) -> None:
    """A file of speech and pauses, written block by block."""
    # Of steps, which another rate leaves as loud as they are.
    minute = np.concatenate(
        [np.full(length * 16000, level) for length, level in ((25, 0.3), (1, 0), (25, 0.4), (9, 0))]
    )
    with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as file:
        for _ in range(seconds // 60):
            file.write(minute)


def test_an_hour_is_written_down_in_bounded_memory(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    _hour(tmp_path / "long.wav", 3600)
    session = load(toy_speech.write(tmp_path / "b"), threads=1)
    session.generate(toy_speech.said((5, 0.3)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = session.generate(tmp_path / "long.wav", language="en")
    # At 16 kHz its samples alone are 230 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 << 10
    assert answer.pieces[-1].end == pytest.approx(3600, abs=0.1)
    assert {*answer.text.split()} <= {"three", "four", "zero"} and len(answer.pieces) >= 120


def test_the_limit_of_a_file_is_named_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcribe, "LONGEST_SECONDS", 60)
    soundfile.write(tmp_path / "a.wav", np.zeros(61 * 100), 100)
    session = load(toy_speech.write(tmp_path / "b"), threads=1)
    with pytest.raises(RequestError, match=r"lasts 61\.00 s, and tokexport reads at most 60 s .*a\.wav.*Cut it"):
        session.generate(tmp_path / "a.wav")


@pytest.mark.parametrize("samples", [np.zeros(0), np.full(3200, np.nan)])
def test_a_file_that_is_no_sound_is_named(tmp_path: Path, samples: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.wav", samples, 100, subtype="FLOAT")
    session = load(toy_speech.write(tmp_path / "b"), threads=1)
    with pytest.raises(RequestError, match=r"a\.wav"):
        session.generate(tmp_path / "a.wav")


def test_a_file_that_breaks_off_says_so(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", toy_speech.said((50, 0.3)) * noise(5), 100)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    session = load(toy_speech.write(tmp_path / "b"), threads=1)

    def heard() -> Iterator[float]:
        yield session.generate(tmp_path / "a.flac").pieces[-1].end

    try:
        assert next(heard()) < 50
    except RequestError as error:
        assert "a.flac cannot be read as sound" in str(error)
