"""Videos whose frames a model reads one by one, with words between them that count them or say when they were taken.

Each frame is what an image of several is to the language model (see `decoders.several`): it goes through the encoder by
itself, and its own K tokens are kept of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...runtimes.bundle.language_records import MOST_IMAGES

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint
    from .layout import Layout

Write = Callable[[str, int], str]


def between(checkpoint: Checkpoint, layout: Layout, write: Write, mark: str, each: int = 1) -> Layout:
    """How the video that the graphs were asked for is read; the layout itself where they take images.

    Args:
        checkpoint: the folder.
        layout: of the model, for an image.
        write: what its processor makes of a video: of what it makes of one frame, and how many there are.
        mark: what the chat template writes for a video.
        each: frames that the encoder reads at once.

    Raises:
        RequestError: so many frames that are no video, or too many of them for a prompt.
    """
    if checkpoint.clip is None:
        return layout
    count, frames = checkpoint.clip.frames // each, checkpoint.clip.frames
    if not 2 <= count <= MOST_IMAGES:
        why = f"a prompt has at most {MOST_IMAGES * each}" if count > 2 else "that is a picture to this model"
        raise RequestError(
            f"--frames {frames}: {why}",
            where=str(checkpoint.folder / "config.json"),
            fix=f"Give {2 * each} to {MOST_IMAGES * each}; or leave it out, and ask about pictures.",
        )
    written = tuple(write(layout.becomes, number) for number in range(1, count + 1))
    return replace(layout, media="video", mark=mark, frames=written, tiles=False)


def counted(frame: str, count: int) -> str:
    """As InternVL's processor: each frame with its number, from 1."""
    return "\n".join(f"Frame{number}: {frame}" for number in range(1, count + 1))


def timed(fps: float, each: int) -> Write:
    """As Qwen3-VL's processor: `each` frames together, with the second in the middle of them."""

    def write(frame: str, count: int) -> str:
        middles = (number * each + (each - 1) / 2 for number in range(count))
        return "".join(f"<{middle / fps:.1f} seconds>{frame}" for middle in middles)

    return write
