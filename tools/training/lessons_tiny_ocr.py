"""Training batches: pictures with packed questions, what each patch shows, and the patches that show each answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from lessons_tiny_vlm import IGNORED, pack
from numpy.typing import NDArray
from tokexport.exporter.zoo.tiny_ocr.pictures import Picture, picture
from tokexport.exporter.zoo.tiny_ocr.text import WORDS
from tokexport.exporter.zoo.tiny_vlm.text import COLOURS

MOST = 5  # numbers in a picture, more than in those that are asked about: there is more to learn from each
SLOT = 9  # words of the longest question with its answer and <eos>
_INK = 1 / 32  # of a patch: as much as shows something of a digit


def draw(seed: tuple[int, ...], pictures: int) -> dict[str, NDArray[Any]]:
    """One batch as numpy arrays: pixels uint8, ids and targets [B, MOST, SLOT], and what `seen` and `shown` say."""
    rng = np.random.default_rng(seed)
    drawn = [picture(rng, MOST) for _ in range(pictures)]
    ids = np.full((pictures, MOST, SLOT), WORDS.pad, np.int64)
    targets = np.full((pictures, MOST, SLOT), IGNORED, np.int64)
    for row, item in enumerate(drawn):
        count = len(item.numbers)
        ids[row, :count], targets[row, :count] = pack([number.question for number in item.numbers], WORDS, SLOT)
    return {
        "pixels": np.stack([item.image for item in drawn]),
        "ids": ids,
        "targets": targets,
        "patches": np.stack([seen(item) for item in drawn]),
        "shown": np.stack([shown(item) for item in drawn]),
    }


def seen(item: Picture) -> NDArray[np.int64]:
    """Of each patch the colour, 0 for none, the digit, and its place in the number, of that with most ink: [144, 3]."""
    ink = np.concatenate(item.ink)
    truth = np.array(
        [
            (COLOURS.index(number.colour) + 1, int(digit), place)
            for number in item.numbers
            for place, digit in enumerate(number.digits)
        ]
    )
    found = truth[ink.argmax(0)]
    most = ink.max(0)
    found[most < _INK] = IGNORED
    found[most == 0, 0] = 0
    return found


def shown(item: Picture) -> NDArray[np.bool_]:
    """The patches that show the digit which follows each word of the packed questions, [MOST, SLOT, 144]."""
    found = np.zeros((MOST, SLOT, item.ink[0].shape[1]), bool)
    for row, (number, ink) in enumerate(zip(item.numbers, item.ink, strict=True)):
        first = len(WORDS.tokenize(number.question.text)) - 1
        found[row, first : first + len(ink)] = ink >= _INK
    return found
