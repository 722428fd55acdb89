"""One file per model family: its graphs and its seams.

A family is a module with `open_family(checkpoint) -> Source`; it is imported when config.json names one of its
architectures. Another package adds one by an entry point in the group ``tokexport.families``: its name, and a module
that also has ``ARCHITECTURES``, a tuple of names as in config.json.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ... import entry_points

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint
    from ..sources.source import Source

# File of the family -> the architectures it reads, as in config.json.
FAMILIES: dict[str, tuple[str, ...]] = {
    "llava": ("LlavaForConditionalGeneration",),
    "moonshine": ("MoonshineForConditionalGeneration", "MoonshineModel"),
    "whisper": ("WhisperForConditionalGeneration", "WhisperModel"),
}


def family_of(model_type: str, architectures: Iterable[str]) -> Callable[[Checkpoint], Source] | None:
    """What opens a checkpoint of one of these architectures; `model_type` decides where config.json names none."""
    named = set(architectures)
    for name, known in FAMILIES.items():
        if named & set(known) or (not named and model_type == name):
            return import_module(f".{name}", __name__).open_family
    for name, module in added().found.items():
        if named & set(module.ARCHITECTURES) or (not named and model_type == name):
            return module.open_family
    return None


def known_architectures() -> list[str]:
    """Every architecture that some family reads, the built-in ones first."""
    found = [*FAMILIES.values(), *(module.ARCHITECTURES for module in added().found.values())]
    return [name for names in found for name in names]


@functools.cache
def added() -> entry_points.Added[Any]:
    """The modules of the families that other packages add. No architecture of a built-in family can be taken."""
    built_in = {*FAMILIES, *(name for names in FAMILIES.values() for name in names)}
    return entry_points.read(
        "tokexport.families",
        built_in=built_in,
        accept=_accept,
        claims=lambda name, module: (name, *module.ARCHITECTURES),
    )


def _accept(name: str, module: Any) -> Any:
    if not callable(getattr(module, "open_family", None)):
        raise TypeError(f"{module!r} has no open_family(checkpoint)")
    architectures = getattr(module, "ARCHITECTURES", ())
    if not isinstance(architectures, tuple) or not architectures or not all(isinstance(n, str) for n in architectures):
        raise TypeError(f"ARCHITECTURES of {module!r} is {architectures!r}, no tuple of names from config.json")
    return module
