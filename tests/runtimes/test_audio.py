"""Sound files: one channel at one rate, whatever they were; and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tokexport.errors import MissingError, RequestError
from tokexport.runtimes.media.audio import check_waveform, read_sound

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")


def tone(rate: int, hertz: float = 440, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_24")])
def test_samples_come_back_at_full_scale_one(tmp_path: Path, suffix: str, subtype: str) -> None:
    soundfile.write(tmp_path / f"a.{suffix}", tone(16000), 16000, subtype=subtype)
    sound = read_sound(tmp_path / f"a.{suffix}", 16000)
    assert sound.dtype == np.float32
    np.testing.assert_allclose(sound, tone(16000), atol=1e-4)


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([tone(16000), np.zeros(8000)], 1), 16000)
    np.testing.assert_allclose(read_sound(tmp_path / "a.wav", 16000), tone(16000) / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_another_rate_is_resampled_and_the_pitch_stays(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(rate), rate)
    sound = read_sound(str(tmp_path / "a.wav"), 16000)
    assert sound.dtype == np.float32
    assert len(sound) == 8000
    np.testing.assert_allclose(sound[500:-500], tone(16000)[500:-500], atol=2e-3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no sound file .*nope\.wav"):
        read_sound(tmp_path / "nope.wav", 16000)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not a sound at all" * 100])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(RequestError, match=r"a\.wav cannot be read as sound"):
        read_sound(tmp_path / "a.wav", 16000)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    with pytest.raises(RequestError, match="holds no samples"):
        read_sound(tmp_path / "a.wav", 16000)


@pytest.mark.parametrize("library", ["soundfile", "soxr"])
def test_without_a_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingError, match=r'pip install "tokexport\[audio\]"') as caught:
        read_sound("a.wav", 16000)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16")])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, suffix: str, subtype: str) -> None:
    file = tmp_path / f"a.{suffix}"
    soundfile.write(file, tone(16000, seconds=2), 16000, subtype=subtype)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(RequestError, match=r"cut short|cannot be read as sound"):
        read_sound(file, 16000)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_channels_that_cancel_each_other_are_refused_with_a_cure_that_cures(tmp_path: Path, rate: int) -> None:
    file, one = tmp_path / "a.wav", tone(rate, seconds=2)
    soundfile.write(file, np.stack([one, -one], 1), rate)
    with pytest.raises(RequestError, match=rf"channels of {file} cancel.*sox {file} ONE.wav remix 1"):
        read_sound(file, 16000)
    # One of them alone, one beside silence, two that differ in time, and silence itself.
    for channels in ([one], [one, one * 0], [one, np.roll(one, 7)], [one * 0, one * 0]):
        soundfile.write(file, np.stack(channels, 1), rate)
        read_sound(file, 16000)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_file_that_was_written_to_a_pipe_is_whole(tmp_path: Path, length: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    content = (tmp_path / "a.wav").read_bytes()
    at = content.index(b"data") + 4
    (tmp_path / "a.wav").write_bytes(content[:at] + length.to_bytes(4, "little") + content[at + 4 :])
    assert len(read_sound(tmp_path / "a.wav", 16000)) == 8000


def test_samples_that_were_not_divided_are_refused() -> None:
    check_waveform(tone(16000) * 3)
    for scale in (100, 32768, -32768):
        with pytest.raises(RequestError, match=r"full scale is 1.*Divide 16-bit samples by 32768"):
            check_waveform(tone(16000) * scale)
