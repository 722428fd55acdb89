"""A bitmap font of ten digits and eight letters, five cells wide and seven high, drawn at any scale and place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# One glyph a column block of five, one row of cells a line.
_DIGITS = """
.###. ..#.. .###. ####. ...#. ##### .###. ##### .###. .###.
#...# .##.. #...# ....# ..##. #.... #.... ....# #...# #...#
#...# ..#.. ....# ....# .#.#. #.... #.... ...#. #...# #...#
#...# ..#.. ...#. .###. #..#. ####. ####. ...#. .###. .####
#...# ..#.. ..#.. ....# ##### ....# #...# ..#.. #...# ....#
#...# ..#.. .#... ....# ...#. ....# #...# ..#.. #...# ....#
.###. .###. ##### ####. ...#. ####. .###. ..#.. .###. .###.
"""
_LETTERS = """
#...# #...# ##### #...# #...# #.... #...# #...#
#...# #..#. #.... ##..# .#.#. #.... ##.## #...#
#...# #.#.. #.... #.#.# .#.#. #.... #.#.# .#.#.
##### ##... ####. #..## ..#.. #.... #.#.# ..#..
#...# #.#.. #.... #...# .#.#. #.... #...# ..#..
#...# #..#. #.... #...# .#.#. #.... #...# ..#..
#...# #...# #.... #...# #...# ##### #...# ..#..
"""
WIDE, HIGH = 5, 7


def _font(rows: str) -> NDArray[np.float32]:
    """Bitmaps [n, 7, 5] float32 of 0 and 1."""
    cells = [[[cell == "#" for cell in glyph] for glyph in line.split()] for line in rows.split("\n") if line]
    return np.array(cells, np.float32).swapaxes(0, 1)


DIGITS, LETTERS = _font(_DIGITS), _font(_LETTERS)


def line(glyphs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bitmaps [n, 7, 5] side by side with one empty column between them: [n, 7, 6n - 1], each where it stands."""
    count = len(glyphs)
    made = np.zeros((count, HIGH, (WIDE + 1) * count - 1), np.float32)
    for index, glyph in enumerate(glyphs):
        made[index, :, (WIDE + 1) * index : (WIDE + 1) * index + WIDE] = glyph
    return made


def inked(cells: NDArray[np.float32], x: float, y: float, scale: float, size: int) -> NDArray[np.float32]:
    """The share of each pixel that the cells cover, exact where edges fall between pixels.

    Args:
        cells: bitmaps [..., h, w].
        x: of the upper left corner, in pixels.
        y: of the upper left corner, in pixels.
        scale: pixels of a cell.
        size: of the picture.

    Returns:
        [..., size, size] float32.
    """
    across, down = (
        _overlap(count, start, scale, size) for count, start in ((cells.shape[-1], x), (cells.shape[-2], y))
    )
    return np.asarray(down @ cells @ across.T, np.float32)


def _overlap(cells: int, start: float, scale: float, size: int) -> NDArray[np.float32]:
    """How much of each pixel lies in each cell, [size, cells]."""
    edges, pixels = start + scale * np.arange(cells), np.arange(size)[:, None]
    return np.clip(np.minimum(pixels + 1, edges + scale) - np.maximum(pixels, edges), 0, 1).astype(np.float32)
