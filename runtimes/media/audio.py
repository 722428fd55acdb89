"""Reads sound files (WAV, FLAC, OGG, MP3 and other formats of libsndfile) as one channel at one sample rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import MissingError, RequestError


def read_sound(path: Path | str, sample_rate: int) -> np.ndarray:
    """The samples of a sound file.

    Args:
        path: of the file; its channels are averaged.
        sample_rate: in hertz, to which the file is resampled where it has another.

    Returns:
        float32 [samples], full scale 1.

    Raises:
        RequestError: no such file, no sound, damaged, or empty.
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
    if not Path(path).is_file():
        raise RequestError(f"no sound file {path}", fix="Check the path given by --audio.")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise RequestError(
            f"{path} cannot be read as sound: {error}", fix="Is it complete? Play it, and save it as a WAV file."
        ) from None
    if not len(samples):
        raise RequestError(f"{path} holds no samples", fix="Record it again.")
    mono = samples.mean(1)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate)
