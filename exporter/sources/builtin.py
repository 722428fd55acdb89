"""The models that come with the package, by name."""

from __future__ import annotations

from importlib import import_module

from ..source import Parts, Source
from ..torch_export import need

NAMES = ("tiny-vlm", "tiny-asr", "tiny-video")


def open_builtin(name: str, parts: Parts) -> Source:
    """Open one of `NAMES`.

    Raises:
        MissingError: torch is not installed.
    """
    need("torch", "safetensors", to=f"open {name}")
    family = import_module(f"..families.{name.replace('-', '_')}", __package__)
    source: Source = family.open_family(parts)
    return source
