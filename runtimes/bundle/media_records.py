"""The manifest's records of how an image, a video or a sound becomes the encoder's input."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from .strict import LARGEST, Strict

# No encoder takes a larger picture, video or spectrogram; refused before memory for one is needed.
MOST_PIXELS = 1 << 24
LONGEST_SIDE = 1 << 12
MOST_VALUES = 1 << 26
LONGEST_WINDOW = 1 << 16
# In a row, or in a column.
MOST_TILES = 64


_Side = Annotated[int, Field(ge=1, le=MOST_PIXELS)]


class TilesRecord(Strict):
    """Tiles that are read beside a whole picture: it is brought to `fitted`, which stands in the middle of black, where
    halves of a pixel go to the right and below, and is cut.

    Attributes:
        grid: [rows, columns] of tiles, each of the `size` of the whole picture.
        fitted: [height, width] of the picture among them.
    """

    grid: tuple[Annotated[int, Field(ge=1, le=MOST_TILES)], Annotated[int, Field(ge=1, le=MOST_TILES)]]
    fitted: tuple[_Side, _Side]


class PreprocessRecord(Strict):
    """How an image becomes pixel_values [1, 3, height, width], or with tiles [1, 1 + tiles, 3, height, width].

    Attributes:
        kind: tells this record from the others.
        size: [height, width] of the graph's input.
        resample: of Pillow, on 8-bit values: nearest, bilinear, bicubic or lanczos.
        antialias: Pillow antialiases whenever it shrinks (except nearest); false is refused.
        crop: ``none`` (stretch to size), ``center`` (the smallest size of the same shape that covers `size`, its longer
            side rounded down, then the middle, its corner rounded down) or ``pad`` (the largest that fits, rounded, in
            the middle of a canvas of the mean colour).
        shortest: of ``center``: the shorter side of the picture becomes so long, where that is longer than `size`
            needs, before the middle is taken. Absent where it is not.
        rescale: multiplies the 8-bit value, before mean and std: (rescale * value - mean) / std, float32.
        tiles: which stand behind the whole picture, row by row.
    """

    kind: Literal["image"] = "image"
    size: tuple[_Side, _Side]
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    antialias: bool = True
    crop: Literal["none", "center", "pad"] = "none"
    shortest: Annotated[int, Field(ge=1, le=LONGEST_SIDE)] | None = None
    rescale: float = 1 / 255
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Literal["NCHW"] = "NCHW"
    tiles: TilesRecord | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        across = () if self.tiles is None else (1 + self.tiles.grid[0] * self.tiles.grid[1],)
        return (1, *across, 3, *self.size)

    @model_validator(mode="after")
    def _small_enough(self) -> PreprocessRecord:
        if math.prod(self.shape) // 3 > MOST_PIXELS:
            tiles = ", tiles included" if self.tiles else ""
            raise ValueError(f"size {list(self.size)} is more than {MOST_PIXELS} pixels{tiles}")
        if self.tiles is not None:
            canvas = [sides * side for sides, side in zip(self.tiles.grid, self.size)]
            if any(side > most for side, most in zip(self.tiles.fitted, canvas)):
                raise ValueError(f"fitted {list(self.tiles.fitted)} is larger than all tiles together, {canvas}")
        return self

    @model_validator(mode="after")
    def _covers(self) -> PreprocessRecord:
        if self.shortest is not None and (self.crop != "center" or self.shortest < max(self.size)):
            raise ValueError(f"shortest {self.shortest} is of crop center alone, and covers size {list(self.size)}")
        return self


class VideoRecord(Strict):
    """How a video becomes pixel_values [1, T, 3, H, W] (runtimes/media/video.py), or that of frame after frame.

    Attributes:
        kind: tells this record from the others.
        frames: T; of n frames of a video, those in the middle of T equal parts are taken: number (2 i + 1) n // 2 T.
        frame: how each frame becomes pixel values.
    """

    kind: Literal["video"]
    frames: int = Field(ge=1, le=MOST_PIXELS)
    frame: PreprocessRecord

    @model_validator(mode="after")
    def _small_enough(self) -> VideoRecord:
        if self.frame.tiles is not None:
            raise ValueError("frames have no tiles")
        if self.frames * self.frame.size[0] * self.frame.size[1] > MOST_VALUES:
            raise ValueError(f"{self.frames} frames of {list(self.frame.size)} are more than {MOST_VALUES} pixels")
        return self


class LogMelRecord(Strict):
    """How sound becomes input_features: Whisper's log-mel spectrogram (runtimes/media/log_mel.py).

    Attributes:
        kind: tells this record from the others.
        sample_rate: in hertz; the filters span 0 to half of it.
        n_fft: samples of a window.
        hop: samples from one frame to the next.
        mels: filters, the height of the encoder's input.
        frames: the width of the encoder's input; the longest sound has frames * hop samples.
        window: samples of the Hann window, in the middle of n_fft; None: n_fft.
        scale: of the filters: ``htk``, of height one; None: Slaney's, of area one.
    """

    kind: Literal["log_mel"]
    sample_rate: int = Field(ge=1, le=LARGEST)
    n_fft: int = Field(ge=2, le=LONGEST_WINDOW)
    hop: int = Field(ge=1, le=LARGEST)
    mels: int = Field(ge=1, le=LARGEST)
    frames: int = Field(ge=1, le=LARGEST)
    window: Annotated[int, Field(ge=1, le=LONGEST_WINDOW)] | None = None
    scale: Literal["htk"] | None = None

    @property
    def samples(self) -> int:
        """The longest sound, in samples."""
        return self.frames * self.hop

    @model_validator(mode="after")
    def _long_enough(self) -> LogMelRecord:
        if self.samples <= self.n_fft // 2:
            raise ValueError(f"{self.samples} samples cannot be mirrored at the ends for windows of {self.n_fft}")
        if self.window is not None and self.window > self.n_fft:
            raise ValueError(f"a window of {self.window} samples is longer than n_fft, {self.n_fft}")
        # Windows overlap, and are all in memory at once.
        wide = max(self.n_fft, self.mels)
        if self.samples > MOST_VALUES or self.frames * wide > MOST_VALUES or self.mels * self.n_fft > MOST_VALUES:
            raise ValueError(f"the sound or its spectrogram has more than {MOST_VALUES} values")
        return self


class WaveformRecord(Strict):
    """How sound becomes input_values [1, samples] float32: a waveform, padded with silence at its end.

    Attributes:
        kind: tells this record from the others.
        sample_rate: in hertz.
        samples: the width of the encoder's input, and the longest sound.
        normalize: (x - mean) / sqrt(variance + 1e-7) over the samples before the silence, which stays zero.
    """

    kind: Literal["waveform"]
    sample_rate: int = Field(ge=1, le=LARGEST)
    samples: int = Field(ge=1, le=MOST_VALUES)
    normalize: bool = False


def _kind(record: Any) -> Any:
    """The kind of a record; image where it has none."""
    return record.get("kind", "image") if isinstance(record, dict) else getattr(record, "kind", None)


Preprocess = Annotated[
    Annotated[PreprocessRecord, Tag("image")]
    | Annotated[VideoRecord, Tag("video")]
    | Annotated[LogMelRecord, Tag("log_mel")]
    | Annotated[WaveformRecord, Tag("waveform")],
    Discriminator(_kind),
]
