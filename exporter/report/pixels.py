"""An encoder's input as a picture for people: de-normalised pixels, frames side by side, a sound, or none."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from ...runtimes.bundle.manifest import LogMelRecord, Preprocess, PreprocessRecord, VideoRecord, WaveformRecord

# A larger picture is shrunk: the page shows it half as wide.
_LARGEST = 768
_LOSSLESS = 160 * 160

_HEIGHT = 64

# Nine knots of cividis (Nunez, Anderton and Renslow 2018, doi 10.1371/journal.pone.0199239), whose lightness rises
# evenly for every kind of colour vision.
_CIVIDIS = np.array(
    [
        (0, 34, 78),
        (27, 54, 109),
        (65, 77, 107),
        (95, 99, 110),
        (124, 123, 120),
        (155, 148, 119),
        (189, 175, 110),
        (224, 203, 93),
        (254, 232, 56),
    ],
    np.float32,
)


@dataclass(frozen=True)
class Pixels:
    """A picture of one input.

    Attributes:
        rgb: uint8 [height, width, 3]; of a video, its frames from left to right; of a sound, high frequencies on top
            and one column a frame, or of a waveform how loud it is.
        sound: whether it is one of these.
        seconds: length of a sound, where known.
        note: how the values became colours, where that is not the inverse of the preprocessing.
    """

    rgb: np.ndarray
    sound: bool = False
    seconds: float | None = None
    note: str = ""

    def data_url(self) -> str:
        """The picture as a data: URL, PNG where it is small, JPEG otherwise."""
        from PIL import Image

        picture = Image.fromarray(self.rgb)
        buffer = io.BytesIO()
        if picture.width * picture.height <= _LOSSLESS:
            picture.save(buffer, "PNG", optimize=True)
            kind = "png"
        else:
            if not self.sound:
                picture.thumbnail((_LARGEST, _LARGEST))
            picture.save(buffer, "JPEG", quality=88)
            kind = "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def pixels_of(array: np.ndarray, preprocess: Preprocess | None, grid: tuple[int, ...] | None) -> Pixels | None:
    """The picture of an encoder's input, None where it cannot be shown as one.

    Args:
        array: [B, C, H, W], [B, T, C, H, W], [B, mels, frames] or [B, samples]; the first of the batch is drawn.
        preprocess: how it was made, where the source records it.
        grid: of the tokens: [B, mels, frames] is taken for a spectrogram where the grid has one dimension.
    """
    first = np.asarray(array, np.float32)[0]
    if isinstance(preprocess, WaveformRecord):
        columns = 2 * grid[0] if grid else _LARGEST
        return Pixels(_colours(_loudness(first, columns)), True, preprocess.samples / preprocess.sample_rate)
    if isinstance(preprocess, LogMelRecord) or (first.ndim == 2 and grid is not None and len(grid) == 1):
        seconds = None
        if isinstance(preprocess, LogMelRecord):
            seconds = preprocess.frames * preprocess.hop / preprocess.sample_rate
        return Pixels(
            _colours(_unit(first))[::-1], True, seconds, "" if seconds else "values scaled from least to largest"
        )
    if first.ndim == 4:
        # A token may be of several frames: the first of them is drawn.
        times = {2: 1, 3: grid[0]}.get(len(grid), len(first)) if grid else len(first)
        first = np.concatenate(list(first[:: max(1, len(first) // times)]), 2)
    if isinstance(preprocess, VideoRecord):
        preprocess = preprocess.frame
    if first.ndim != 3 or first.shape[0] not in (1, 3):
        return None
    if isinstance(preprocess, PreprocessRecord) and first.shape[0] == 3:
        mean, std = (np.array(each, np.float32)[:, None, None] for each in (preprocess.mean, preprocess.std))
        bytes_ = (first * std + mean) / preprocess.rescale
        return Pixels(_rgb(bytes_))
    return Pixels(
        _rgb(_unit(first) * 255), note="pixel values scaled from least to largest: their mean and deviation are unknown"
    )


def slot_means(pixels: Pixels, cells: np.ndarray, assignment: np.ndarray, slots: int) -> np.ndarray:
    """The mean colour of each slot's part of the picture.

    Args:
        pixels: an image.
        cells: int [N, 4] left, top, right, bottom of each token in it.
        assignment: [N], -1 for none.
        slots: K.

    Returns:
        uint8 [K, 3]; black where a slot has no token.
    """
    sums, areas = np.zeros((slots, 3)), np.zeros(slots)
    for slot, (left, top, right, bottom) in zip(assignment.tolist(), cells.tolist()):
        if slot >= 0:
            patch = pixels.rgb[top:bottom, left:right]
            sums[slot] += patch.sum((0, 1))
            areas[slot] += patch.shape[0] * patch.shape[1]
    return np.rint(sums / np.maximum(areas, 1)[:, None]).astype(np.uint8)


def _unit(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _loudness(samples: np.ndarray, columns: int) -> np.ndarray:
    """[samples] -> [`_HEIGHT`, columns] in 0..1: how loud each column is at most, as a bar of that height.

    Zeros fill the last column.
    """
    width = -(-len(samples) // columns)
    loudest = np.abs(np.pad(samples, (0, width * columns - len(samples)))).reshape(columns, width).max(1)
    loud = loudest / max(float(loudest.max()), 1e-9)
    return np.where(np.abs(np.linspace(-1, 1, _HEIGHT))[:, None] <= loud, loud, 0)


def _rgb(values: np.ndarray) -> np.ndarray:
    """[C, H, W] in 0..255 -> uint8 [H, W, 3]."""
    picture = np.clip(np.rint(values), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(picture, 3, 2) if picture.shape[2] == 1 else np.ascontiguousarray(picture)


def _colours(unit: np.ndarray) -> np.ndarray:
    """[H, W] in 0..1 -> uint8 [H, W, 3]."""
    at = unit * (len(_CIVIDIS) - 1)
    channels = [np.interp(at, np.arange(len(_CIVIDIS)), _CIVIDIS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, 2)).astype(np.uint8)
