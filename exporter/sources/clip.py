"""The videos that the graphs of a checkpoint are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import RequestError

# More than any model is given; the tokens of all are in memory at once.
MOST_FRAMES = 1024
_FASTEST = 240


@dataclass(frozen=True)
class Clip:
    """A video as the graphs take it.

    Attributes:
        frames: T.
        fps: how many of them a second, as a model is told that knows when they were taken; None: its family's.
    """

    frames: int
    fps: float | None = None


def clip_of(frames: int | None, fps: float | None) -> Clip | None:
    """What was asked for; None where nothing was: the graphs take images.

    Raises:
        RequestError: the number of frames is no whole number of 1 or more; a rate without frames, or that is none.
    """
    if frames is None:
        if fps is not None:
            raise RequestError(f"--fps {fps} is about the frames of a video", fix="Say how many: --frames 8.")
        return None
    if isinstance(frames, bool) or not isinstance(frames, int) or not 1 <= frames <= MOST_FRAMES:
        raise RequestError(
            f"--frames {frames!r} is no whole number from 1 to {MOST_FRAMES}", fix="Leave it out for images."
        )
    if fps is None:
        return Clip(frames)
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= _FASTEST:
        raise RequestError(
            f"--fps {fps!r} is no number of frames a second above 0, up to {_FASTEST}",
            fix="Leave it out for what the model's own processor takes.",
        )
    return Clip(frames, float(fps))
