"""How SmolVLM2 is asked about a video: a sentence about all frames, then each with the time at which it was taken."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from transformers.models.smolvlm import processing_smolvlm as own

from .between_frames import Write, between

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint
    from ..sources.clip import Clip
    from .layout import Layout

# Frames that the processor takes of a second of a video.
_FPS = 1.0
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_SMALL = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", *_TEENS)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty")


def asked(checkpoint: Checkpoint, layout: Layout, clip: Clip) -> Layout:
    """The layout of a model that is asked about so many frames; see `between` for what it raises.

    Its processor takes a chat template of its own then, whatever the folder has.
    """
    found = between(checkpoint, layout, clocked(clip.fps or _FPS), "<video>")
    return replace(found, template=own.DEFAULT_CHAT_TEMPLATE)


def clocked(fps: float) -> Write:
    """As the processor of the model: each frame with the minute and second, behind a sentence about all of them."""

    def write(frame: str, count: int) -> str:
        length = str(timedelta(seconds=int(count / fps)))
        said = own.DEFAULT_VIDEO_INTRO.format(frame_count=in_words(count), video_duration=length)
        for number in range(count):
            minutes, seconds = divmod(int(number / fps), 60)
            said += own.FRAME_TIMESTAMP_MESSAGE.format(timestamp=f"{minutes:02d}:{seconds:02d}") + frame
        return said + own.DEFAULT_MEDIA_OUTTRO

    return write


def in_words(count: int) -> str:
    """An English number from 1 to 69, as the package num2words writes it."""
    if count < len(_SMALL):
        return _SMALL[count]
    tens, ones = divmod(count, 10)
    return _TENS[tens] + f"-{_SMALL[ones]}" * (ones > 0)
