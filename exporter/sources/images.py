"""How a checkpoint preprocesses images, or the frames of videos, to pixel_values, read from the configuration of its
image processor or video processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat

from ...errors import RequestError
from ...runtimes.bundle.manifest import PreprocessRecord, VideoRecord
from ...runtimes.bundle.media_records import LONGEST_SIDE
from .configuration import typed

if TYPE_CHECKING:
    from pathlib import Path

    from .checkpoint import Checkpoint

# PIL.Image.Resampling, as image processors write it.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


_Positive = Annotated[FiniteFloat, Field(gt=0)]
_Three = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
_Size = int | dict[str, int | None] | None


class _Processor(BaseModel):
    """What is read of an image processor's configuration."""

    image_mean: _Three | None = None
    image_std: tuple[_Positive, _Positive, _Positive] | None = None
    do_normalize: bool | None = True
    do_rescale: bool | None = True
    rescale_factor: FiniteFloat = 1 / 255
    resample: int = 3
    do_center_crop: bool | None = None
    do_pad: bool | None = None
    size: _Size = None
    crop_size: _Size = None
    image_processor_type: str = ""


def processor_of(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]]:
    """The file and the settings of the image processor; of graphs for videos those of the video processor, if any."""
    if checkpoint.clip is not None:
        path, found = checkpoint.optional("video_preprocessor_config.json", "processor_config.json")
        if own := found if path.name.startswith("video") else found.get("video_processor"):
            return path, own
    path, found = checkpoint.optional("preprocessor_config.json", "processor_config.json")
    return path, found.get("image_processor", found)


def preprocess_of(checkpoint: Checkpoint, size: tuple[int, int], *, squeezed: bool = False) -> PreprocessRecord | None:
    """Read preprocessor_config.json, or the image processor's part of processor_config.json; see `processor_of`.

    Args:
        checkpoint: the folder.
        size: [height, width] of the graph's input.
        squeezed: a picture is brought to that size without a crop, whatever the configuration says of tiles.

    Returns:
        None where the folder has no such configuration, or one that a `PreprocessRecord` cannot express: another final
        size than the graph's, tiles. A bundle then takes pixel_values only.
    """
    path, found = processor_of(checkpoint)
    config: _Processor = typed(_Processor, found, path)
    if not {"image_mean", "do_normalize"} & config.model_fields_set:
        return None
    crop = "none" if squeezed else _crop(config, size)
    if crop is None:
        return None
    shortest = _shortest(config.size) if crop == "center" else None
    resample = _RESAMPLE.get(config.resample)
    if resample is None:
        return None
    if config.do_normalize and (config.image_mean is None or config.image_std is None):
        lacking = "image_mean" if config.image_mean is None else "image_std"
        raise RequestError(f"{path.name} normalizes and has no {lacking}", where=str(path), fix="Download it again.")
    return PreprocessRecord(
        size=size,
        resample=resample,  # type: ignore[arg-type]
        crop=crop,
        shortest=shortest if shortest != min(size) else None,
        rescale=config.rescale_factor if config.do_rescale else 1.0,
        mean=config.image_mean if config.do_normalize and config.image_mean else (0.0, 0.0, 0.0),
        std=config.image_std if config.do_normalize and config.image_std else (1.0, 1.0, 1.0),
    )


def media_of(checkpoint: Checkpoint, frame: PreprocessRecord | None) -> PreprocessRecord | VideoRecord | None:
    """Of a picture; or of the video that was asked for, each frame of which is read as `frame` says."""
    if checkpoint.clip is None or frame is None:
        return frame
    return VideoRecord(kind="video", frames=checkpoint.clip.frames, frame=frame)


def picture_size(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """[height, width] of what the folder's image processor makes of a picture; None where it does not say."""
    path, found = processor_of(checkpoint)
    return _final(typed(_Processor, found, path))


def _crop(config: _Processor, size: tuple[int, int]) -> Literal["none", "center", "pad"] | None:
    """How the picture is fitted to `size`; None where `PreprocessRecord` cannot express it."""
    shortest, final = _shortest(config.size), _final(config)
    if config.do_pad:
        # Only this family of processors pads to a square with the mean colour before it resizes.
        mean_colour = config.image_processor_type.startswith("LlavaImageProcessor")
        fits = shortest == min(size) and final == size
        return "pad" if mean_colour and fits and size[0] == size[1] else None
    if config.do_center_crop:
        covers = shortest is not None and (shortest == min(size) or max(size) <= shortest <= LONGEST_SIDE)
        return "center" if covers and final == size else None
    return "none" if final == size else None


def _final(config: _Processor) -> tuple[int, int] | None:
    """(height, width) of the picture at the end."""
    return _extent(config.crop_size) if config.do_center_crop else _extent(config.size)


def _shortest(size: _Size) -> int | None:
    """The length of the shorter side behind the resize, where it follows from the picture's shape."""
    return size.get("shortest_edge") if isinstance(size, dict) else size


def _extent(size: Any) -> tuple[int, int] | None:
    """(height, width), where the size gives both."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and size.get("height") is not None and size.get("width") is not None:
        return size["height"], size["width"]
    return None
