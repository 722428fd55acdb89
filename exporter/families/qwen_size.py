"""Of which size the pictures and frames are that Qwen's vision-language models are made to read.

The models take any whose sides are multiples of a token, and a graph takes one: what the folder's image or video
processor makes of the size that was asked for, or a square.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from ...errors import RequestError
from ..sources.configuration import Pixels, typed
from ..sources.images import processor_of
from .square import SIDE

if TYPE_CHECKING:
    from pathlib import Path

    from ..sources.checkpoint import Checkpoint

Area = Annotated[int, Field(ge=1, le=1 << 32)]
Merge = Annotated[int, Field(ge=1, le=16)]


class _Limits(BaseModel):
    """What is read of the image processor beside the colours, in pixels of a whole image; by old and new names."""

    min_pixels: Area | None = None
    max_pixels: Area | None = None
    shortest_edge: Area | None = None
    longest_edge: Area | None = None


class _Processor(_Limits):
    """Its defaults are those of transformers."""

    size: _Limits = _Limits()
    patch_size: Pixels | None = None
    merge_size: Merge | None = None
    video_processor_type: str = ""

    def area(self, frames: int) -> tuple[int, int]:
        """Fewest and most pixels of a picture or of a frame of so many: Qwen3-VL's are of all frames together."""
        fewest = self.min_pixels or self.size.min_pixels or self.size.shortest_edge or 56 * 56
        most = self.max_pixels or self.size.max_pixels or self.size.longest_edge or 28 * 28 * 1280
        share = frames if self.video_processor_type.startswith("Qwen3") else 1
        return -(-fewest // share), most // share


def step_of(vision: Any) -> int:
    """Pixels of which the sides of pictures are multiples: where the encoder has windows, all of them are equal."""
    token: int = vision.patch_size * vision.spatial_merge_size
    return getattr(vision, "window_size", token) // token * token


def size_of(checkpoint: Checkpoint, vision: Any) -> tuple[int, int]:
    """Height and width of images or frames: what their processor makes of the size that was asked for, or a square."""
    path, found = processor_of(checkpoint)
    processor: _Processor = typed(_Processor, found, path)
    for name, cut, own in (
        ("patch_size", processor.patch_size, vision.patch_size),
        ("merge_size", processor.merge_size, vision.spatial_merge_size),
    ):
        if cut not in (None, own):
            raise RequestError(
                f"{name} of {path.name} is {cut}, and the encoder of config.json has {own}",
                where=str(path),
                fix="Its files belong to different models: download the folder again.",
            )
    step, (fewest, most) = step_of(vision), processor.area(checkpoint.clip.frames if checkpoint.clip else 1)
    if not step:
        token = vision.patch_size * vision.spatial_merge_size
        raise RequestError(
            f"window_size of config.json is {vision.window_size} pixels, and a token is {token}",
            where=str(checkpoint.folder / "config.json"),
            fix="Its files belong to different models: download the folder again.",
        )
    if checkpoint.image_size is None:
        side = _side(step, fewest, most, path)
        return side, side
    try:
        height, width = smart_resize(*checkpoint.image_size, step, fewest, most)
    except ValueError as error:
        raise RequestError(f"--image-size: {error}", fix="Give sides that are more alike.") from None
    return height, width


def _side(step: int, fewest: int, most: int, path: Path) -> int:
    """Of the square: a multiple of `step` with so many pixels, as the file at `path` says."""
    smallest, largest = math.ceil(math.sqrt(fewest) / step) * step, math.isqrt(most) // step * step
    if not 0 < smallest <= largest:
        raise RequestError(
            f"no square whose side is a multiple of {step} has {fewest} to {most} pixels, as {path.name} wants",
            where=str(path),
            fix=f"Raise its largest number of pixels (max_pixels, or longest_edge of size) to {smallest**2}.",
        )
    return min(max(SIDE // step * step, smallest), largest)
