"""Turns a picture, a video, a sound or an array into the encoder's input, as the bundle's record describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RequestError
from ..bundle.media_records import LogMelRecord, Preprocess, PreprocessRecord, VideoRecord, WaveformRecord
from .audio import read_sound
from .image import pixel_values
from .log_mel import input_features
from .video import clip_values
from .waveform import input_values

if TYPE_CHECKING:
    from PIL import Image

    Media = Image.Image | np.ndarray | Path | str


def encoder_input(media: Media, record: Preprocess | None, bundle: Path) -> np.ndarray:
    """The encoder's main input.

    Args:
        media: see `Session.encode`.
        record: how the bundle preprocesses, None where it has no such record.
        bundle: its folder, for messages.

    Raises:
        RequestError: a kind of input that the bundle does not take, or one that is damaged, empty or too long.
        MissingError: soundfile or soxr, which read a sound file, is not installed.
    """
    if isinstance(record, (LogMelRecord, WaveformRecord)):
        return _of_sound(media, record)
    if isinstance(media, np.ndarray) and media.dtype != np.uint8:
        return media
    if isinstance(record, VideoRecord):
        return _of_video(media, record)
    return _of_image(media, record, bundle)


def _of_sound(media: Any, record: LogMelRecord | WaveformRecord) -> np.ndarray:
    if isinstance(media, (str, Path)):
        sound = read_sound(media, record.sample_rate, record.samples)
        try:
            return of_waveform(sound, record)
        except RequestError as error:
            # A caller may read a whole folder, so the error must name the file.
            raise RequestError(error.what, where=str(media), fix=error.fix) from None
    if not isinstance(media, np.ndarray):
        raise not_a_sound(media, record.sample_rate)
    return media if is_prepared(media, record) else of_waveform(media, record)


def of_waveform(waveform: np.ndarray, record: LogMelRecord | WaveformRecord) -> np.ndarray:
    """The encoder's input for float [samples] at the record's sample rate; RequestError where it is no sound."""
    if isinstance(record, WaveformRecord):
        return input_values(waveform, record)
    return input_features(waveform, record)


def is_prepared(media: np.ndarray, record: LogMelRecord | WaveformRecord) -> bool:
    """Whether an array is the encoder's own input, which has a batch axis."""
    return media.ndim == (2 if isinstance(record, WaveformRecord) else 3)


def not_a_sound(media: Any, sample_rate: int) -> RequestError:
    """The error for something that is neither a file nor an array."""
    return RequestError(
        f"a {type(media).__name__} is not a sound",
        fix=f"Give a sound file, or a float32 waveform at {sample_rate} Hz.",
    )


def _of_video(media: Any, record: VideoRecord) -> np.ndarray:
    if not isinstance(media, (np.ndarray, str, Path)):
        raise RequestError(
            f"a {type(media).__name__} is not a video",
            fix="Give a file, a folder of pictures, or an 8-bit array [frames, height, width, 3].",
        )
    return clip_values(media, record)


def _of_image(media: Any, record: PreprocessRecord | None, bundle: Path) -> np.ndarray:
    if isinstance(media, np.ndarray):
        if media.ndim != 3 or media.shape[2] != 3:
            raise RequestError(f"an 8-bit image is [height, width, 3], not {list(media.shape)}")
        from PIL import Image

        media = Image.fromarray(media)
    if record is None:
        raise RequestError(
            "the bundle does not say how a picture, a video or a sound becomes the encoder's input",
            where=str(bundle),
            fix=f"Prepare it yourself, and give the array in Python: tokexport.load({str(bundle)!r}).encode(ARRAY).",
        )
    return pixel_values(media, record)
