"""How a checkpoint preprocesses images to pixel_values, read from the configuration of its image processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ...runtimes.bundle.manifest import PreprocessRecord

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

# PIL.Image.Resampling, as image processors write it.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def preprocess_of(checkpoint: Checkpoint, size: tuple[int, int]) -> PreprocessRecord | None:
    """Read preprocessor_config.json, or the image processor's part of processor_config.json.

    Args:
        checkpoint: the folder.
        size: [height, width] of the graph's input.

    Returns:
        None where the folder has no such configuration, or one that a `PreprocessRecord` cannot express: another final
        size than the graph's, a crop out of a larger picture, tiles. A bundle then takes pixel_values only.
    """
    found = checkpoint.optional("preprocessor_config.json", "processor_config.json")
    config: dict[str, Any] = found.get("image_processor", found)
    if "image_mean" not in config and "do_normalize" not in config:
        return None
    crop = _crop(config, size)
    if crop is None:
        return None
    resample = _RESAMPLE.get(config.get("resample", 3))
    if resample is None:
        return None
    normal = config.get("do_normalize", True)
    return PreprocessRecord(
        size=size,
        resample=resample,  # type: ignore[arg-type]
        crop=crop,
        rescale=config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0,
        mean=tuple(config["image_mean"]) if normal else (0.0, 0.0, 0.0),
        std=tuple(config["image_std"]) if normal else (1.0, 1.0, 1.0),
    )


def _crop(config: dict[str, Any], size: tuple[int, int]) -> Literal["none", "center", "pad"] | None:
    """How the picture is fitted to `size`; None where `PreprocessRecord` cannot express it."""
    wanted = config.get("size")
    shortest = wanted.get("shortest_edge") if isinstance(wanted, dict) else wanted
    final = _extent(config["crop_size"]) if config.get("do_center_crop") else _extent(wanted)
    fits = shortest == min(size) and final == size
    if config.get("do_pad"):
        # Only this family of processors pads to a square with the mean colour before it resizes.
        mean_colour = config.get("image_processor_type", "").startswith("LlavaImageProcessor")
        return "pad" if mean_colour and fits and size[0] == size[1] else None
    if config.get("do_center_crop"):
        return "center" if fits else None
    return "none" if final == size else None


def _extent(size: Any) -> tuple[int, int] | None:
    """(height, width), where the size gives both."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and "height" in size and "width" in size:
        return size["height"], size["width"]
    return None
