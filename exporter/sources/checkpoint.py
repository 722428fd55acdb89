"""A Hugging Face checkpoint folder: its configuration files and its weights, read on first use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RequestError
from ...runtimes.bundle.language_records import LONGEST_PROMPT, MOST_IMAGES
from .configuration import read_json
from .weights import Weights

if TYPE_CHECKING:
    from .clip import Clip
    from .source import Parts


@dataclass(frozen=True)
class Lengths:
    """What the language graphs hold.

    Attributes:
        prompt: ids of a prompt, which is padded to it.
        answer: tokens that are generated at most.
        images: that a prompt may have.
    """

    prompt: int = 128
    answer: int = 128
    images: int = 1


# Field -> the option that sets it, and the most that it may be.
_OPTIONS = {
    "prompt": ("--prompt-length", LONGEST_PROMPT),
    "answer": ("--answer-length", LONGEST_PROMPT),
    "images": ("--images", MOST_IMAGES),
}


def lengths_of(prompt: int | None, answer: int | None, images: int | None = None) -> Lengths | None:
    """What was asked for; None where nothing was.

    Raises:
        RequestError: one is no whole number of 1 or more.
    """
    asked = {"prompt": prompt, "answer": answer, "images": images}
    given = {name: value for name, value in asked.items() if value is not None}
    for name, value in given.items():
        option, most = _OPTIONS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise RequestError(
                f"{option} {value!r} is no whole number from 1 to {most}",
                fix=f"Leave it out for {getattr(Lengths(), name)}.",
            )
    return Lengths(**given) if given else None


def image_size_of(text: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width that were asked for.

    Raises:
        RequestError: they are none.
    """
    if text is None:
        return None
    sides = text.lower().split("x") if isinstance(text, str) else [str(side) for side in text]
    if len(sides) != 2 or not all(re.fullmatch("[1-9][0-9]{0,3}", side) for side in sides):
        raise RequestError(
            f"--image-size {text} is no HEIGHTxWIDTH in pixels, below 10000 each",
            fix="Write for example --image-size 672x1008, or leave it out.",
        )
    return int(sides[0]), int(sides[1])


@dataclass(frozen=True)
class Checkpoint:
    """A folder in the layout of transformers; every file is read on first use.

    Attributes:
        folder: absolute.
        name: of the model, for display.
        parts: what is wanted of it: with ``encoder`` nothing that only the language graphs need is read.
        lengths: of the language graphs.
        image_size: height and width of the pictures that its graphs are for, where its family leaves a choice; None:
            what the family takes by itself.
        clip: the video that its graphs are for; None: they take images.
    """

    folder: Path
    name: str
    parts: Parts = "encoder"
    lengths: Lengths = Lengths()
    image_size: tuple[int, int] | None = None
    clip: Clip | None = None

    @cached_property
    def weights(self) -> Weights:
        """The tensors; see `Weights` for what can be wrong with them."""
        return Weights(self.folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json.

        Raises:
            RequestError: it is missing, or not a JSON object.
        """
        path = self.folder / "config.json"
        if not path.is_file():
            raise RequestError(
                "no config.json in this folder",
                where=str(self.folder),
                fix="Give a folder that save_pretrained wrote or that was downloaded whole from the hub.",
            )
        return read_json(path)

    def optional(self, *names: str) -> tuple[Path, dict[str, Any]]:
        """The first of these JSON files that exists, and its content; empty without any.

        Raises:
            RequestError: it is not a JSON object.
        """
        found = next((self.folder / name for name in names if (self.folder / name).is_file()), None)
        return (self.folder / names[0], {}) if found is None else (found, read_json(found))
