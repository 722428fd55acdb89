"""The models that come with the package, by name."""

from __future__ import annotations

from ..source import Parts, Source
from ..torch_export import need

NAMES = ("tiny-vlm",)


def open_builtin(name: str, parts: Parts) -> Source:
    """Open one of `NAMES`.

    Raises:
        MissingError: torch is not installed.
    """
    need("torch", "safetensors", to=f"open {name}")
    from ..families import tiny_vlm

    return {"tiny-vlm": tiny_vlm.open_family}[name](parts)
