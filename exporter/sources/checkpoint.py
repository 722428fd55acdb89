"""A Hugging Face checkpoint folder: its configuration files and its weights, read on first use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import RequestError
from .weights import Weights


@dataclass(frozen=True)
class Checkpoint:
    """A folder in the layout of transformers; every file is read on first use.

    Attributes:
        folder: absolute.
        name: of the model, for display.
    """

    folder: Path
    name: str

    @cached_property
    def weights(self) -> Weights:
        """The tensors; see `Weights` for what can be wrong with them."""
        return Weights(self.folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json.

        Raises:
            RequestError: it is missing, or not JSON.
        """
        path = self.folder / "config.json"
        if not path.is_file():
            raise RequestError(
                "no config.json in this folder",
                where=str(self.folder),
                fix="Give a folder that save_pretrained wrote or that was downloaded whole from the hub.",
            )
        return _read(path)

    def optional(self, *names: str) -> dict[str, Any]:
        """The content of the first of these JSON files that exists; empty without any."""
        return next((_read(self.folder / name) for name in names if (self.folder / name).is_file()), {})


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RequestError(
            f"{path.name} is not JSON: {error}", where=str(path), fix="Copy or download this file again."
        ) from None
    if not isinstance(content, dict):
        raise RequestError(f"{path.name} holds a {type(content).__name__}, not an object", where=str(path))
    return content
