"""Reads chosen frames of a film (MP4, MOV, MKV, WebM, AVI), by FFmpeg's libraries as the package av has them.

A file is read by the reader of its own format alone, which opens no other file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import MissingError, RequestError
from ...files import open_regular
from .limits import check_size

if TYPE_CHECKING:
    from PIL import Image

# End of a name -> the reader of FFmpeg.
READERS = {".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}


def frames_of(path: Path, choose: Callable[[int], Sequence[int]]) -> Iterator[Image.Image]:
    """The chosen frames, one after the other, upright.

    Args:
        path: of a file whose name ends as one of `READERS`.
        choose: from how many there are, the numbers of those that are wanted, ascending.

    Raises:
        MissingError: av is not installed.
        RequestError: no film, none with pictures, or one that ends before a chosen frame.
        Exception: of av, where it is damaged.
    """
    try:
        import av
    except ImportError as error:
        raise MissingError(
            f"reading {path.suffix} files needs av: {error}",
            fix=f'pip install "tokexport[video]", or make pictures of it: ffmpeg -i {path} FOLDER/%05d.png, and give '
            "the folder.",
        ) from None
    with _film(av, path) as film:
        packets = sum(packet.size > 0 for packet in film.demux(video=0))
    wanted = list(choose(packets))
    with _film(av, path) as film:
        decoded = enumerate(film.decode(video=0))
        number, frame = next(decoded, (-1, None))
        for one in wanted:
            while frame is not None and number < one:
                number, frame = next(decoded, (number, None))
            if frame is None:
                raise RequestError(
                    f"{path} ends after {number + 1} frames, and says that it has {packets}",
                    fix="Is it complete? Play it, and save it again.",
                )
            # Phones write what they hold upright as lying, and by how much it is turned.
            yield frame.to_image().rotate(frame.rotation, expand=True)


@contextlib.contextmanager
def _film(av: Any, path: Path) -> Iterator[Any]:
    """The film, opened; its pictures are of a size that may be decoded."""

    def refuse(*_: Any) -> NoReturn:
        raise OSError("it is of several files")

    with open_regular(path) as file, av.open(file, format=READERS[path.suffix.lower()], io_open=refuse) as film:
        if not film.streams.video:
            raise RequestError(f"{path} holds no pictures", fix="Give a video; a sound alone is none.")
        of = film.streams.video[0]
        of.thread_type = "AUTO"
        check_size((of.width, of.height), str(path))
        yield film
