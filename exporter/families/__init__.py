"""One file per model family: its graphs and its seams.

A family is a module with `open_family(checkpoint) -> Source`; it is imported when config.json names one of its
architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint
    from ..sources.source import Source

# File of the family -> the architectures it reads, as in config.json.
FAMILIES: dict[str, tuple[str, ...]] = {
    "llava": ("LlavaForConditionalGeneration",),
    "whisper": ("WhisperForConditionalGeneration", "WhisperModel"),
}


def family_of(model_type: str, architectures: Iterable[str]) -> Callable[[Checkpoint], Source] | None:
    """What opens a checkpoint of one of these architectures; `model_type` decides where config.json names none."""
    named = set(architectures)
    for name, known in FAMILIES.items():
        if named & set(known) or (not named and model_type == name):
            return import_module(f".{name}", __name__).open_family
    return None
