"""Preprocesses an image to pixel_values like the Pillow-based image processors of transformers, on 8-bit values.

Resizing happens on uint8, so that every channel is rounded to a whole number before it is scaled. Processors that
resize floating-point tensors differ by up to 1/255 per value, before mean and std.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import BundleError, RequestError, TokexportError, reason
from ..bundle.media_records import PreprocessRecord, TilesRecord
from . import limits
from .limits import check_size

if TYPE_CHECKING:
    from PIL import Image

_EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"}


def pixel_values(image: Image.Image | Path | str, record: PreprocessRecord) -> np.ndarray:
    """Preprocess one image.

    Args:
        image: any 8-bit mode or file that Pillow reads; it is rotated (EXIF) and converted to RGB, alpha dropped.
        record: of the manifest.

    Returns:
        float32 [1, 3, height, width], or with tiles [1, 1 + tiles, 3, height, width].

    Raises:
        RequestError: no such file, not an image, damaged, or more than 8 bits a channel.
        BundleError: the record asks for something that Pillow cannot do.
    """
    from PIL import Image

    if not record.antialias and record.resample != "nearest":
        raise BundleError(
            f"preprocess asks for {record.resample} without antialiasing, and Pillow always antialiases",
            where="manifest.json, preprocess",
            fix="Pass pixel_values as an array instead of an image.",
        )
    rgb = _read(image)
    filter_ = Image.Resampling[record.resample.upper()]
    _check_resize(rgb, record)
    views = [_whole(rgb, filter_, record), *(_tiles(rgb, filter_, record.size, record.tiles) if record.tiles else [])]
    # transformers multiplies in float64 first, and the last bit of float32 depends on that.
    scaled = (np.asarray([np.asarray(view) for view in views], np.float64) * record.rescale).astype(np.float32)
    normalized = (scaled - np.asarray(record.mean, np.float32)) / np.asarray(record.std, np.float32)
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2)).reshape(record.shape)


def _whole(image: Image.Image, filter_: Image.Resampling, record: PreprocessRecord) -> Image.Image:
    height, width = record.size
    if record.crop == "none":
        return image.resize((width, height), filter_)
    if record.crop == "center":
        return _cover(image, record, filter_)
    return _pad(image, width, height, filter_, record)


def _tiles(
    image: Image.Image, filter_: Image.Resampling, size: tuple[int, int], record: TilesRecord
) -> list[Image.Image]:
    """Of (height, width) each, row by row; see `TilesRecord`."""
    from PIL import Image

    (rows, columns), (fitted_height, fitted_width), (height, width) = record.grid, record.fitted, size
    canvas = Image.new("RGB", (columns * width, rows * height))
    fitted = image.resize((fitted_width, fitted_height), filter_)
    canvas.paste(fitted, ((canvas.width - fitted_width) // 2, (canvas.height - fitted_height) // 2))
    corners = [(x * width, y * height) for y in range(rows) for x in range(columns)]
    return [canvas.crop((left, top, left + width, top + height)) for left, top in corners]


def _cover(image: Image.Image, record: PreprocessRecord, filter_: Image.Resampling) -> Image.Image:
    """The size of `_covering`, and the middle of it."""
    height, width = record.size
    size = _covering(image, record)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.resize(size, filter_).crop((left, top, left + width, top + height))


def _covering(image: Image.Image, record: PreprocessRecord) -> tuple[int, int]:
    """The smallest (width, height) of the same shape that covers the record's size, or its shortest side."""
    height, width = (record.shortest, record.shortest) if record.shortest else record.size
    # In integers: a float product can make the longer side one pixel too short.
    if width * image.height >= height * image.width:
        return width, max(height, width * image.height // image.width)
    return max(width, height * image.width // image.height), height


def _pad(
    image: Image.Image, width: int, height: int, filter_: Image.Resampling, record: PreprocessRecord
) -> Image.Image:
    """The largest size of the same shape that fits into (width, height), in the middle of the mean colour."""
    from PIL import Image

    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    colour = tuple(min(255, max(0, round(mean / record.rescale))) for mean in record.mean)
    canvas = Image.new("RGB", (width, height), colour)
    canvas.paste(image.resize(size, filter_), ((width - size[0]) // 2, (height - size[1]) // 2))
    return canvas


def _check_resize(image: Image.Image, record: PreprocessRecord) -> None:
    """Refuse what would become larger on the way than a picture may be: first the width is changed, then the height."""
    height, width = record.size
    if record.crop == "center":
        width, height = _covering(image, record)
    fitted = [] if record.tiles is None else [(record.tiles.fitted[1], image.height)]
    for size in ((width, image.height), (width, height), *fitted):
        check_size(size, f"a picture of {image.width} x {image.height}", made="would be resized to")


def _read(image: Image.Image | Path | str) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = str(image) if isinstance(image, (str, Path)) else "the image"
    try:
        with contextlib.ExitStack() as files:
            opened = files.enter_context(limits.opened(image)) if isinstance(image, (str, Path)) else image
            if not isinstance(opened, Image.Image):
                raise RequestError(
                    f"a {type(image).__name__} is not an image", fix="Give a path, a Pillow image or an array."
                )
            if opened.mode not in _EIGHT_BIT:
                raise RequestError(
                    f"{name} has mode {opened.mode}, more than 8 bits a channel",
                    fix="Convert it to an 8-bit image first.",
                )
            check_size(opened.size, name)
            return ImageOps.exif_transpose(opened).convert("RGB")
    except TokexportError:
        raise
    except FileNotFoundError:
        raise RequestError(f"no image {name}", fix="Check the path given by --image.") from None
    except UnidentifiedImageError:
        raise RequestError(
            f"{name} cannot be read as an image: it is in no format that is read here",
            fix="Is it a picture, and complete? Open it in a viewer, save it as PNG.",
        ) from None
    except Exception as error:
        # On damaged files Pillow's decoders raise errors of every kind, of which its documentation names only some.
        raise RequestError(
            f"{name} cannot be read as an image: {reason(error, 200)}",
            fix="Is it complete? Open it in a viewer, save it as PNG.",
        ) from None
