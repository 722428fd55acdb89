"""Reads sound files (WAV, FLAC, OGG, MP3 and other formats of libsndfile) as one channel at one sample rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import MissingError, RequestError
from ...files import open_regular

# 100 minutes at 16 kHz.
MOST_SAMPLES = 96_000_000
_BLOCK = 1 << 16


def read_sound(path: Path | str, sample_rate: int, longest: int | None = None) -> np.ndarray:
    """The samples of a sound file.

    Args:
        path: of the file; its channels are averaged.
        sample_rate: in hertz, to which the file is resampled where it has another.
        longest: at most this many samples, at that rate; None: `MOST_SAMPLES`.

    Returns:
        float32 [samples], full scale 1.

    Raises:
        RequestError: no such file, no sound, damaged, empty, or too long, which is found before it is decoded.
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
    most = MOST_SAMPLES if longest is None else longest
    try:
        with open_regular(path) as file, soundfile.SoundFile(file) as sound:
            rate = int(sound.samplerate)
            parts, left = [], most * rate // sample_rate + 1
            # The length in the header of a damaged file may be wrong, so what is read counts.
            if not sound.frames > left:
                while left > 0 and len(part := sound.read(min(left, _BLOCK), dtype="float32", always_2d=True)):
                    parts.append(part.mean(1))
                    left -= len(part)
            if sound.frames > most * rate // sample_rate + 1 or left <= 0:
                raise too_long(sound.frames / rate, most, sample_rate, str(path))
    except FileNotFoundError:
        raise RequestError(f"no sound file {path}", fix="Check the path given by --audio.") from None
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, TypeError) as error:
        raise RequestError(
            f"{path} cannot be read as sound: {getattr(error, 'strerror', None) or error}",
            fix="Is it complete? Play it, and save it as a WAV file.",
        ) from None
    if not parts:
        raise RequestError(f"{path} holds no samples", fix="Record it again.")
    mono = np.concatenate(parts)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate)


def too_long(seconds: float, most: int, sample_rate: int, where: str = "") -> RequestError:
    """The error for a sound of more than `most` samples."""
    return RequestError(
        f"the sound lasts {seconds:.2f} s, and the encoder takes at most {most / sample_rate:g} s "
        f"({most} samples at {sample_rate} Hz)",
        where=where,
        fix="Cut it into shorter pieces, best where nobody speaks.",
    )
