"""Reads videos, which are films, animated pictures or folders of pictures, as the frames that an encoder takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RequestError, TokexportError, reason
from ..bundle.media_records import Preprocess, VideoRecord
from . import film
from .image import pixel_values
from .limits import check_size, opened

if TYPE_CHECKING:
    from PIL import Image

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
VIDEOS = (".gif", ".webp", ".png", ".apng", *film.READERS)
_TAKEN = (
    "It takes an MP4, MOV, MKV, WebM or AVI file, an animated GIF, WebP or PNG file, or a folder of pictures in the "
    "order of their names"
)
_FIX = f"{_TAKEN}. Of other videos: ffmpeg -i VIDEO FOLDER/%05d.png."


def clip_values(video: np.ndarray | Path | str, record: VideoRecord) -> np.ndarray:
    """The frames of a video, chosen and preprocessed.

    Args:
        video: a film; an animated picture; a folder of pictures, where hidden files and files of other kinds are
            ignored; or 8-bit RGB [n, height, width, 3].
        record: of the manifest. Frames are chosen by their number, however long each is shown.

    Returns:
        float32 [1, frames, 3, height, width].

    Raises:
        RequestError: no such file or folder, no video, a single picture, damaged, or fewer frames than the record asks
            for.
        MissingError: a film, and av is not installed.
    """
    frames: Iterable[Image.Image | Path]
    if isinstance(video, np.ndarray):
        frames = _of_array(video, record.frames)
    elif Path(video).is_dir():
        frames = _of_folder(Path(video), record.frames)
    else:
        frames = _of_file(Path(video), record.frames)
    return np.stack([pixel_values(frame, record.frame)[0] for frame in frames])[None]


def chosen(count: int, frames: int, name: str = "the video") -> list[int]:
    """The numbers of the frames in the middle of `frames` equal parts of `count`; RequestError where these are fewer.

    Args:
        count: frames of the video.
        frames: T.
        name: of the video, for the message.
    """
    if count < frames:
        raise RequestError(
            f"{name} has {count} frame{'s' * (count > 1)}, and the model reads {frames}",
            fix=f"Give a longer video. A checkpoint can also be exported for shorter ones: --frames {count}.",
        )
    return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]


def apart(values: np.ndarray, record: Preprocess | None, shape: Sequence[int]) -> list[np.ndarray]:
    """What an encoder takes of a video, piece by piece where it reads the frames one by one, or two by two.

    Args:
        values: what `clip_values` returns; anything else is left as it is.
        record: of the manifest.
        shape: of the encoder's input: that of all frames, of a few, [1, n, 3, height, width], or [1, 3, height, width].
    """
    if not isinstance(record, VideoRecord) or values.ndim != 5 or values.shape[1] != record.frames:
        return [values]
    if len(shape) == values.ndim - 1:
        return list(values.swapaxes(0, 1))
    return np.split(values, max(1, record.frames // shape[1]), 1)


def _of_array(video: np.ndarray, frames: int) -> list[Image.Image]:
    from PIL import Image

    if video.ndim != 4 or video.shape[3] != 3 or not len(video):
        raise RequestError(f"an 8-bit video is [frames, height, width, 3], not {list(video.shape)}")
    return [Image.fromarray(video[number]) for number in chosen(len(video), frames)]


def _of_folder(folder: Path, frames: int) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.name[0] != ".")
    if not files:
        raise RequestError(f"no pictures in the folder {folder}", fix=f"{_TAKEN}, of {' '.join(PICTURES)}.")
    return [files[number] for number in chosen(len(files), frames, str(folder))]


def _of_file(path: Path, frames: int) -> Iterator[Image.Image]:
    """One frame after the other, so that only one is in memory."""
    from PIL import UnidentifiedImageError

    try:
        if path.suffix.lower() in film.READERS:
            yield from film.frames_of(path, partial(chosen, frames=frames, name=str(path)))
            return
        with opened(path) as video:
            count = getattr(video, "n_frames", 1)
            if count < 2:
                raise RequestError(f"{path} is one picture and no video", fix=_FIX)
            for number in chosen(count, frames, str(path)):
                video.seek(number)
                check_size(video.size, str(path))
                yield video.copy()
    except TokexportError:
        raise
    except FileNotFoundError:
        raise RequestError(f"no video {path}", fix="Check the path given by --video.") from None
    except UnidentifiedImageError:
        raise RequestError(f"{path} is no video that can be read here", fix=_FIX) from None
    except Exception as error:
        # See `image`: errors of every kind.
        raise RequestError(
            f"{path} cannot be read as a video: {reason(error, 200)}",
            fix="Is it complete? Play it, and save it again.",
        ) from None
