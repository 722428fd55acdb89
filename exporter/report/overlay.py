"""Draws what happened to each token over the picture of the input, as SVG: lit, tinted by its slot, or dimmed.

Everything that carries meaning is an attribute, so that the same markup works in the page and in a file of its own.
Classes serve only what a page may add (highlighting the slot under the pointer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from .colours import ALONE, slot_colours
from .picks import Picks

DARK = "#0b0f14"
# A merged token is darkened before it is tinted, so that kept ones stand out in bright inputs too; the tint is light,
# because the input is to be seen through it, and the border says which tokens went together.
DIM, SHADE, TINT = 0.84, 0.42, 0.16
# Strips of sound are narrow and have no frame: lit ones must stand out by their brightness alone.
STRIP_SHADE, STRIP_TINT = 0.62, 0.42
_CELL = 40
_FONT = "font-family='system-ui, sans-serif' font-weight='700' text-anchor='middle'"


@dataclass(frozen=True)
class Layout:
    """The positions of tokens in the drawing.

    Attributes:
        grid: of the tokens, (height, width) or (length,); it decides which tokens are neighbours.
        columns: tokens in a row of the drawing.
        size: (width, height) of the drawing.
        cell: (width, height) of a token.
        pitch: distance of the tops of two rows; more than a cell's height where bars of sizes are between them.
        top: of the first row.
    """

    grid: tuple[int, ...]
    columns: int
    size: tuple[int, int]
    cell: tuple[int, int]
    pitch: int
    top: int = 0

    def at(self, token: int) -> tuple[int, int]:
        """The top left corner of a token."""
        row, column = divmod(token, self.columns)
        return column * self.cell[0], self.top + row * self.pitch


def squares(grid: tuple[int, int], aspect: float = 1.0) -> Layout:
    """Tokens of an image: height x width cells; `aspect` is the width of the whole over its height."""
    height, width = grid
    tall = max(1, round(_CELL * width / (aspect * height)))
    return Layout(grid, width, (width * _CELL, height * tall), (_CELL, tall), tall)


def paint(picks: Picks, layout: Layout, *, bars: int = 0) -> str:
    """The layers over the picture.

    Args:
        picks: of one input.
        layout: of its tokens.
        bars: height of the bars of sizes above each row of tokens; 0 writes the sizes into the tokens.

    Returns:
        SVG elements without the picture below them.
    """
    colours = slot_colours(picks, layout.grid)
    merged, sizes = picks.merged, picks.sizes
    shade, tint = (STRIP_SHADE, STRIP_TINT) if bars else (SHADE, TINT)
    layers = [
        f"<path class='{name}' d='{_area(layout, those)}' fill='{DARK}' fill-opacity='{opacity}'/>"
        for name, those, opacity in (("lost", picks.lost, DIM), ("shade", merged, shade))
    ]
    # Each input has a scale of its own, because bars compare only the slots of one input.
    tallest = float(np.log2(max(2.0, sizes.max(initial=1)) + 1))
    written = -_CELL * layout.columns
    for slot in np.argsort(picks.kept, kind="stable").tolist():
        position, size = int(picks.kept[slot]), float(sizes[slot])
        inside = _area(layout, merged & (picks.assignment == slot))
        parts = [f"<title>{_tooltip(picks, layout, slot)}</title>"]
        if inside:
            parts.append(f"<path class='merged' d='{inside}' fill='{colours[slot]}' fill-opacity='{tint}'/>")
        if inside and not bars:
            parts.append(_border(layout, picks.assignment == slot, colours[slot]))
        if not bars or not picks.lit[position]:
            parts.append(_outline(layout, position, colours[slot], bool(picks.lit[position])))
        if bars:
            x, y = layout.at(position)
            tall = max(2, round((bars - 20) * float(np.log2(size + 1)) / tallest))
            wide = max(2, layout.cell[0] - 1)
            parts.append(f"<rect x='{x}' y='{y - 3 - tall}' width='{wide}' height='{tall}' fill='{colours[slot]}'/>")
            if size > 1 and (x - written >= 18 or x < written):
                middle = min(max(x + wide / 2, 12), layout.size[0] - 12)
                parts.append(_text(f"{size:g}", middle, y - 6 - tall, 12, "#f4f6f8"))
                written = x
        elif size > 1:
            x, y = layout.at(position)
            font = min(layout.cell) * (0.5 if size < 100 else 0.42)
            parts.append(_text(f"{size:g}", x + layout.cell[0] / 2, y + layout.cell[1] / 2 + font * 0.36, font))
        # It can be tapped, where nothing points; the keyboard has the table of slots.
        layers.append(f"<g class='slot' tabindex='-1'>{''.join(parts)}</g>")
    return "".join(layers)


def _tooltip(picks: Picks, layout: Layout, slot: int) -> str:
    """The tooltip of a slot."""
    position, size = int(picks.kept[slot]), float(picks.sizes[slot])
    where = f"token {position}"
    if len(layout.grid) == 2:
        where += f" (row {position // layout.columns + 1}, column {position % layout.columns + 1})"
    inside = int((picks.assignment == slot).sum())
    holds = "this token alone" if inside == 1 and picks.lit[position] else f"{inside} tokens went in, size {size:g}"
    return f"slot {slot} at {where}: {holds}"


def _outline(layout: Layout, position: int, colour: str, lit: bool) -> str:
    """The frame of a kept token; dashed where its slot holds something other than the token at this position."""
    (x, y), (wide, tall) = layout.at(position), layout.cell
    line = max(1.0, min(wide, tall) * 0.08)
    box = (x + line / 2, y + line / 2, wide - line, tall - line)
    x, y, wide, tall = (round(side, 1) for side in box)  # type: ignore[assignment]
    place = f"x='{x:g}' y='{y:g}' width='{wide:g}' height='{tall:g}'"
    dash = "" if lit else f" stroke-dasharray='{2 * line:g} {line:g}'"
    under = f"<rect {place} fill='#000' fill-opacity='0' stroke='{DARK}' stroke-width='{line * 1.7:g}'/>"
    return f"{under}<rect class='kept' {place} fill='none' stroke='{colour}' stroke-width='{line:g}'{dash}/>"


def _text(text: str, x: float, y: float, size: float, colour: str = ALONE) -> str:
    halo = f"stroke='{DARK}' stroke-width='{size * 0.22:.1f}' paint-order='stroke' stroke-linejoin='round'"
    return f"<text x='{x:g}' y='{y:.1f}' font-size='{size:.1f}' {_FONT} fill='{colour}' {halo}>{text}</text>"


def _area(layout: Layout, wanted: np.ndarray) -> str:
    """A path over the wanted tokens, one rectangle for each run in a row."""
    wide, tall = layout.cell
    path = []
    rows: Sequence[int] = np.flatnonzero(wanted).tolist()
    for _, run in groupby(enumerate(rows), key=lambda pair: (pair[1] // layout.columns, pair[1] - pair[0])):
        tokens = [token for _, token in run]
        x, y = layout.at(tokens[0])
        path.append(f"M{x} {y}h{wide * len(tokens)}v{tall}H{x}z")
    return "".join(path)


def _border(layout: Layout, inside: np.ndarray, colour: str) -> str:
    """A line around the tokens of a slot, within them, so that those of its neighbours stand beside it."""
    wide, tall = layout.cell
    line = max(1.0, min(wide, tall) * 0.09)
    owned = set(np.flatnonzero(inside).tolist())
    path = []
    for token in sorted(owned):
        (x, y), column = layout.at(token), token % layout.columns
        if token - layout.columns not in owned:
            path.append(f"M{x} {y + line / 2:g}h{wide}")
        if token + layout.columns not in owned:
            path.append(f"M{x} {y + tall - line / 2:g}h{wide}")
        if column == 0 or token - 1 not in owned:
            path.append(f"M{x + line / 2:g} {y}v{tall}")
        if column == layout.columns - 1 or token + 1 not in owned:
            path.append(f"M{x + wide - line / 2:g} {y}v{tall}")
    return f"<path class='border' d='{''.join(path)}' fill='none' stroke='{colour}' stroke-width='{line:g}'/>"
