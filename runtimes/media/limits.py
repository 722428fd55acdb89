"""What a picture may be, checked before it is decoded: how large, in which format, and how large it is made."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...files import open_regular

if TYPE_CHECKING:
    from PIL import Image

# Where Pillow itself begins to warn of a decompression bomb; about 360 MB in its memory.
MOST_PIXELS = 89_478_485
# Pillow decodes these itself; others (EPS) it hands to programs of the machine.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF")


@contextlib.contextmanager
def opened(path: Path | str) -> Iterator[Image.Image]:
    """A picture file whose header was read, and whose size is one that may be decoded.

    Raises:
        RequestError: it has more than `MOST_PIXELS` pixels.
        OSError: no regular file, or none of these formats.
    """
    from PIL import Image

    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    with open_regular(path) as file, warnings.catch_warnings():
        # Larger pictures are refused below, with what to do.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(file, formats=formats) as image:
            check_size(image.size, str(path))
            yield image


def check_size(size: tuple[int, int], name: str, *, made: str = "") -> None:
    """Refuse a picture, or the size it would be resized to, of more than `MOST_PIXELS` pixels.

    Args:
        size: (width, height).
        name: of the picture.
        made: where it is not the picture's own size: why it would be made so large.

    Raises:
        RequestError: it is larger.
    """
    width, height = size
    if width * height > MOST_PIXELS:
        raise RequestError(
            f"{name} {made or 'has'} {width} x {height} pixels, and at most {MOST_PIXELS / 1e6:.0f} million are taken",
            fix="Crop it to what matters." if made else "Make it smaller first: no encoder sees that many pixels.",
        )
