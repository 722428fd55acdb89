"""Reads sound files (WAV, FLAC, OGG, MP3 and other formats of libsndfile) as one channel at one sample rate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import MissingError, RequestError, reason
from ...files import open_regular

# 100 minutes at 16 kHz, where all of it is in memory at once.
MOST_SAMPLES = 96_000_000
_BLOCK = 1 << 16
# Full scale is 1, which a decoder overshoots a little; 16-bit samples that were not divided reach thousands.
LOUDEST = 16.0
# Of the power of the channels; a cable with swapped wires leaves their rounding, other recordings a tenth and more.
_CANCELLED = 1e-4
# A WAV file whose length was not known when its header was written says one that is near 2^31 or 2^32.
_LARGEST_WAV = 0x7FFF0000


@dataclass(frozen=True)
class Blocks:
    """A sound file that is open, and read block by block.

    Attributes:
        seconds: how long it lasts by its header, which may be wrong in a damaged file.
        blocks: float32 [samples] each, full scale 1, at the rate that was asked for. They raise as `open_sound` does.
    """

    seconds: float
    blocks: Iterator[np.ndarray]


@contextlib.contextmanager
def open_sound(path: Path | str, sample_rate: int, most: int, reader: str = "the encoder takes") -> Iterator[Blocks]:
    """Open a sound file.

    Args:
        path: of the file; its channels are averaged.
        sample_rate: in hertz, to which the file is resampled where it has another.
        most: at most this many samples, at that rate.
        reader: who takes so many, for the message.

    Raises:
        RequestError: no such file, no sound, damaged, empty, or too long; by its header that is found at once. At its
            end: the channels cancel each other.
        MissingError: soundfile or soxr is not installed.
    """
    try:
        import soundfile
        import soxr
    except (ImportError, OSError) as error:
        # soundfile raises OSError where its wheel has no libsndfile for this machine.
        raise MissingError(
            f"reading sound files needs soundfile and soxr: {error}",
            fix='pip install "tokexport[audio]", or pass the waveform as a float32 array.',
        ) from None
    with contextlib.ExitStack() as stack:
        with _readable(path, soundfile.SoundFileError):
            file = stack.enter_context(open_regular(path))
            whole = _is_whole(file)
            sound = stack.enter_context(soundfile.SoundFile(file))
            rate, frames = int(sound.samplerate), int(sound.frames)
            longest = most * rate // sample_rate + 1
            # No block becomes longer than that at the new rate either.
            block = max(1, min(_BLOCK, _BLOCK * rate // sample_rate))
            stream = soxr.ResampleStream(rate, sample_rate, 1) if rate != sample_rate else None
        if not whole:
            raise _cut_short(path)
        if frames > longest:
            raise too_long(frames / rate, most, sample_rate, str(path), reader)

        def blocks() -> Iterator[np.ndarray]:
            left, given, mix = longest, False, _Mix()
            while True:
                with _readable(path, soundfile.SoundFileError):
                    part = mix.down(sound.read(min(left, block), dtype="float32", always_2d=True))
                    last = not len(part)
                    ready = part if stream is None else stream.resample_chunk(part, last=last)
                given = given or len(ready) > 0
                # One sample at a high rate is none at a low one.
                if last and not given:
                    raise RequestError(f"{path} holds no samples", fix="Record it again.")
                if last and longest - left < frames and sound.format == "FLAC":
                    raise _cut_short(path)
                if len(ready):
                    yield ready
                if last:
                    mix.check(path)
                    return
                left -= len(part)
                # The length in the header of a damaged file may be wrong, so what is read counts.
                if left <= 0:
                    raise too_long(longest / rate, most, sample_rate, str(path), reader)

        yield Blocks(frames / rate, blocks())


class _Mix:
    """Averages channels, and knows whether they left anything of each other."""

    def __init__(self) -> None:
        self._before = self._after = 0.0

    def down(self, channels: np.ndarray) -> np.ndarray:
        """float32 [samples, channels] -> float32 [samples]."""
        one = channels.mean(1)
        self._before += float(np.square(channels, dtype=np.float64).sum()) / channels.shape[1]
        self._after += float(np.square(one, dtype=np.float64).sum())
        return one

    def check(self, path: Path | str) -> None:
        if self._after < _CANCELLED * self._before:
            raise RequestError(
                f"the channels of {path} cancel each other: averaged, nothing of it can be heard",
                fix=f"Take one of them, for example: sox {path} ONE.wav remix 1",
            )


def _is_whole(file: BinaryIO) -> bool:
    """Whether a WAV file holds as many bytes of samples as it says; libsndfile reads those that are there."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    found = head[:4] == b"RIFF" and head[8:] == b"WAVE"
    while found and len(chunk := file.read(8)) == 8:
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            end = file.tell() + length
            file.seek(0)
            return length >= _LARGEST_WAV or end <= size
        file.seek(length + length % 2, os.SEEK_CUR)
    file.seek(0)
    return True


def _cut_short(path: Path | str) -> RequestError:
    return RequestError(
        f"{path} is cut short: it holds fewer samples than its header says",
        fix="Copy it again; where nothing more is left of it, save what there is as a new WAV file.",
    )


def read_sound(path: Path | str, sample_rate: int, longest: int | None = None) -> np.ndarray:
    """All samples of a sound file.

    Args:
        path: of the file; its channels are averaged.
        sample_rate: in hertz, to which the file is resampled where it has another.
        longest: at most this many samples, at that rate; None: `MOST_SAMPLES`.

    Returns:
        float32 [samples], full scale 1.

    Raises:
        RequestError, MissingError: as `open_sound`.
    """
    with open_sound(path, sample_rate, MOST_SAMPLES if longest is None else longest) as sound:
        return np.concatenate(list(sound.blocks))


def too_long(
    seconds: float, most: int, sample_rate: int, where: str = "", reader: str = "the encoder takes"
) -> RequestError:
    """The error for a sound of more than `most` samples, which is the limit of `reader`."""
    return RequestError(
        f"the sound lasts {seconds:.2f} s, and {reader} at most {most / sample_rate:g} s "
        f"({most} samples at {sample_rate} Hz)",
        where=where,
        fix="Cut it into shorter pieces, best where nobody speaks.",
    )


def check_waveform(waveform: np.ndarray) -> None:
    """Refuse what is no sound: RequestError for one that is empty, not float [samples], not finite or far too loud."""
    if waveform.ndim != 1 or waveform.dtype not in (np.float32, np.float64):
        raise RequestError(
            f"a waveform is float32 [samples], not {waveform.dtype.name} {list(waveform.shape)}",
            fix="Divide 16-bit samples by 32768; average the channels of a stereo recording.",
        )
    if not waveform.size:
        raise RequestError("the sound is empty", fix="Record it again.")
    if not np.isfinite(waveform).all():
        raise RequestError("the sound holds NaN or inf", fix="Play it, and save it as 16-bit samples.")
    loudest = float(np.abs(waveform).max())
    if loudest > LOUDEST:
        raise RequestError(
            f"the sound reaches {loudest:.6g}, and full scale is 1: a model would hear something else",
            fix="Divide 16-bit samples by 32768, and 24-bit samples by 8388608.",
        )


def fitting(waveform: np.ndarray, samples: int, sample_rate: int) -> np.ndarray:
    """A waveform, float [samples], with silence behind it up to the encoder's width.

    Raises:
        RequestError: see `check_waveform`; or it is longer.
    """
    check_waveform(waveform)
    if waveform.size > samples:
        raise too_long(waveform.size / sample_rate, samples, sample_rate)
    return np.pad(waveform, (0, samples - waveform.size))


def _said(error: BaseException) -> str:
    # libsndfile's message names the open file as an object of Python; its cause alone stands beside it.
    return getattr(error, "error_string", None) or reason(error, 200)


@contextlib.contextmanager
def _readable(path: Path | str, kind: Any) -> Iterator[None]:
    """What soundfile and soxr raise inside, as an error of the file."""
    try:
        yield
    except FileNotFoundError:
        raise RequestError(f"no sound file {path}", fix="Check the path given by --audio.") from None
    except (kind, OSError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise RequestError(
            f"{path} cannot be read as sound: {_said(error)}",
            fix="Is it complete? Play it, and save it as a WAV file.",
        ) from None
