"""Draws numbers of three or four digits in different colours on busy pictures; the same seed draws the same picture.

The background is that of tiny-vlm: a gradient, texture, lines, specks and noise. On it lie shapes and grey letters,
which no question is about, and two to four numbers, none over another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..tiny_vlm.questions import Question
from ..tiny_vlm.scenes import GRID, PATCH, RGB, SIZE, UPRIGHT, WINDOW, Drawn, background, outlines
from ..tiny_vlm.text import COLOURS, SHAPES
from .glyphs import DIGITS, HIGH, LETTERS, WIDE, inked, line

KINDS: tuple[str, ...] = ("three digits", "four digits")
SCALES = (1.5, 2.2)
_INK = 1 / 32  # a patch with less of it, two pixels, shows nothing of a digit
_TRIES = 40


@dataclass(frozen=True)
class Number:
    """One number; x and y of its upper left corner and the `scale`, of a cell of its font, in pixels."""

    colour: str
    digits: str
    x: float
    y: float
    scale: float

    @property
    def question(self) -> Question:
        """What it is, digit by digit."""
        kind = KINDS[len(self.digits) - 3]
        return Question(kind, f"read the {self.colour} number", " ".join(self.digits))


@dataclass(frozen=True)
class Picture(Drawn):
    """A picture with its truth.

    numbers: no two of one colour. ink: for each number float32 [digits, 144], the share of each patch that a digit
    covers.
    """

    numbers: list[Number]
    ink: list[NDArray[np.float32]]

    @property
    def covered(self) -> list[NDArray[np.bool_]]:
        """For each number bool [144]: the patches that show something of it."""
        return [digits.sum(0) >= _INK for digits in self.ink]


def picture(rng: np.random.Generator, most: int = 4) -> Picture:
    """Draw one picture of two to `most` numbers, fewer where there is no room."""
    boxes: list[tuple[float, float, float, float]] = []
    numbers = _numbers(rng, boxes, most)
    canvas = background(rng)
    _shapes(rng, canvas, boxes)
    _letters(rng, canvas, boxes)
    ink = []
    for number in numbers:
        cells = line(DIGITS[[int(digit) for digit in number.digits]])
        mask = inked(cells.sum(0), number.x, number.y, number.scale, SIZE)[..., None]
        canvas += mask * (RGB[COLOURS.index(number.colour)] + rng.normal(0, 9, 3).astype(np.float32) - canvas)
        # The share of each patch is that of each pixel in a picture of one pixel for each patch.
        x, y, scale = (value / PATCH for value in (number.x, number.y, number.scale))
        ink.append(inked(cells, x, y, scale, GRID).reshape(len(cells), -1))
    return Picture(np.clip(canvas, 0, 255).astype(np.uint8), numbers, ink)


def _free(box: tuple[float, float, float, float], boxes: list[tuple[float, float, float, float]]) -> bool:
    """Whether a box of left, top, right and bottom lies apart from all others, by two pixels."""
    return all(
        box[0] > other[2] + 2 or other[0] > box[2] + 2 or box[1] > other[3] + 2 or other[1] > box[3] + 2
        for other in boxes
    )


def _numbers(rng: np.random.Generator, boxes: list[tuple[float, float, float, float]], most: int) -> list[Number]:
    colours = rng.permutation(len(COLOURS))[: rng.integers(2, most + 1)]
    numbers: list[Number] = []
    for colour in colours:
        digits, scale = "".join(map(str, rng.integers(0, 10, rng.integers(3, 5)))), rng.uniform(*SCALES)
        wide, high = scale * ((WIDE + 1) * len(digits) - 1), scale * HIGH
        for _ in range(_TRIES):
            x, y = rng.uniform(2, SIZE - 2 - wide), rng.uniform(2, SIZE - 2 - high)
            if _free((x, y, x + wide, y + high), boxes):
                numbers.append(Number(COLOURS[colour], digits, x, y, scale))
                boxes.append((x, y, x + wide, y + high))
                break
    return numbers


def _shapes(
    rng: np.random.Generator, canvas: NDArray[np.float32], boxes: list[tuple[float, float, float, float]]
) -> None:
    """Paint up to six shapes where there is room."""
    for _ in range(rng.integers(2, 7)):
        radius, shape, colour = rng.uniform(4.5, 7.5), rng.integers(len(SHAPES)), rng.integers(len(COLOURS))
        x, y = rng.uniform(WINDOW // 2, SIZE - WINDOW // 2, 2)
        box = (x - 1.3 * radius, y - 1.3 * radius, x + 1.3 * radius, y + 1.3 * radius)
        if not _free(box, boxes):
            continue
        boxes.append(box)
        left, top = int(x) - WINDOW // 2, int(y) - WINDOW // 2
        turn = UPRIGHT[[shape]] + rng.uniform(-0.4, 0.4, 1)
        place, corner = np.array([[x, y, radius]]), np.array([[left, top]])
        mask = outlines(place, np.array([shape]), corner, turn)[0]
        window = canvas[top : top + WINDOW, left : left + WINDOW]
        window += mask[..., None] * (RGB[colour] + rng.normal(0, 9, 3).astype(np.float32) - window)


def _letters(
    rng: np.random.Generator, canvas: NDArray[np.float32], boxes: list[tuple[float, float, float, float]]
) -> None:
    """Paint up to eight grey letters where there is room."""
    for _ in range(rng.integers(3, 9)):
        scale, letter, shade = rng.uniform(1.3, 2), rng.integers(len(LETTERS)), rng.uniform(-70, 70)
        x, y = rng.uniform(0, SIZE - scale * HIGH, 2)
        box = (x, y, x + scale * WIDE, y + scale * HIGH)
        if _free(box, boxes):
            boxes.append(box)
            canvas += np.float32(shade) * inked(LETTERS[letter], x, y, scale, SIZE)[..., None]
