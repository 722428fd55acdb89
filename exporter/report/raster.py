"""Draws a look as a picture of pixels: the input beside its kept tokens, or for a sound above them.

The same as `figures` draws as SVG, for viewers that show only pixels: what was kept is lit, what was merged has the
colour of its slot, and what was dropped is dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RequestError
from .colours import slot_colours
from .overlay import DARK, DIM, SHADE, STRIP_SHADE, STRIP_TINT, TINT, Layout, squares
from .picks import Picks
from .pixels import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from .stages import Stage

_WIDE, _STRIP, _GAP, _HEAD = 1500, 160, 16, 34
_SURFACE, _INK = (16, 21, 27), (240, 244, 248)


def raster(stages: Sequence[Stage], pixels: Pixels, grid: tuple[int, ...]) -> Image:
    """The picture, with the title of each stage above it.

    Args:
        stages: of one input, one or more.
        pixels: the input.
        grid: of its tokens: (length,), (height, width) or (frames, height, width).

    Raises:
        RequestError: a grid that cannot be drawn over the input.
    """
    from PIL import Image
    from PIL.ImageDraw import Draw

    laid = [_laid_out(stage.picks, pixels, stage.grid or grid) for stage in stages]
    picture = Image.fromarray(pixels.rgb)
    small = max(picture.size) < 200 and not pixels.sound
    before = picture.resize(laid[0][1].size, Image.Resampling.NEAREST if small else Image.Resampling.BILINEAR)
    made = [before]
    for picks, layout in laid:
        made.append(_painted(before.resize(layout.size), picks, layout, strips=pixels.sound))
    beside = before.width <= _WIDE // 2
    # One title stands above all: of several stages each has its own.
    head = _HEAD if len(stages) > 1 and not beside else 0
    across, down = before.width + _GAP, before.height + head + _GAP
    width, height = (across * len(made), down) if beside else (across, down * len(made))
    whole = Image.new("RGB", (width + _GAP, height + _HEAD + _GAP), _SURFACE)
    draw = Draw(whole)
    for number, one in enumerate(made):
        x, y = (number * across, 0) if beside else (0, number * down)
        whole.paste(one, (x + _GAP, y + _HEAD + _GAP))
        if number and len(stages) > 1:
            _heading(draw, (x + _GAP, y + _GAP), stages[number - 1].title, before.width)
    if len(stages) == 1:
        draw.text((_GAP, _GAP), stages[0].title, fill=_INK, font=_font(18))
    return whole


def _heading(draw: ImageDraw, at: tuple[int, int], text: str, width: int) -> None:
    """A title no wider than what it stands above."""
    # The font has no arrow.
    text, size = text.replace("→", "to"), 18
    while size > 8 and draw.textlength(text, _font(size)) > width:
        size -= 1
    draw.text(at, text, fill=_INK, font=_font(size))


def _laid_out(picks: Picks, pixels: Pixels, grid: tuple[int, ...]) -> tuple[Picks, Layout]:
    """The picks in the order of the drawing, and where their tokens are in it."""
    height, width = pixels.rgb.shape[:2]
    if len(grid) == 3:
        frames, rows, columns = grid
        beside = np.arange(math.prod(grid)).reshape(rows, frames, columns).transpose(1, 0, 2).ravel()
        picks, grid = picks.moved(beside), (rows, frames * columns)
    if len(grid) == 2:
        return picks, squares((grid[0], grid[1]), width / height)
    if not pixels.sound:
        raise RequestError(
            f"a grid of {'x'.join(map(str, grid))} tokens cannot be drawn over a picture",
            fix="`tokexport run BUNDLE --image F` lists the tokens kept.",
        )
    unit = max(1, _WIDE // grid[0])
    return picks, Layout(grid, grid[0], (unit * grid[0], _STRIP), (unit, _STRIP), _STRIP)


def _painted(before: Image, picks: Picks, layout: Layout, *, strips: bool) -> Image:
    """A copy with every token lit, tinted or dark, and what a slot stands for written into it."""
    from PIL import Image, ImageColor
    from PIL.ImageDraw import Draw

    shade, tint = (STRIP_SHADE, STRIP_TINT) if strips else (SHADE, TINT)
    colours = slot_colours(picks, layout.grid)
    over = Image.new("RGBA", before.size)
    draw = Draw(over)
    wide, tall = layout.cell
    for token, slot in enumerate(picks.assignment.tolist()):
        x, y = layout.at(token)
        box = (x, y, x + wide - 1, y + tall - 1)
        if slot < 0:
            draw.rectangle(box, (*ImageColor.getrgb(DARK)[:3], round(255 * DIM)))
        elif picks.merged[token]:
            # Two layers of the SVG, darkening and then tinting, as one colour of one opacity.
            opacity = 1 - (1 - shade) * (1 - tint)
            dark, bright = np.array(ImageColor.getrgb(DARK)[:3]), np.array(ImageColor.getrgb(colours[slot])[:3])
            mixed = (bright * tint + dark * shade * (1 - tint)) / opacity
            draw.rectangle(box, (*map(round, mixed.tolist()), round(255 * opacity)))
    if not strips:
        _frames(draw, picks, layout, colours)
    return Image.alpha_composite(before.convert("RGBA"), over).convert("RGB")


def _frames(draw: ImageDraw, picks: Picks, layout: Layout, colours: list[str]) -> None:
    """A frame around the position of each slot, with its size where it stands for several tokens."""
    wide, tall = layout.cell
    for slot, position in enumerate(picks.kept.tolist()):
        x, y = layout.at(position)
        line = max(1, round(0.08 * min(wide, tall)))
        draw.rectangle((x, y, x + wide - 1, y + tall - 1), outline=DARK, width=line + 1)
        draw.rectangle((x, y, x + wide - 1, y + tall - 1), outline=colours[slot], width=line)
        if picks.sizes[slot] > 1:
            middle = (x + wide / 2, y + tall / 2)
            text, font = f"{float(picks.sizes[slot]):g}", _font(round(0.45 * min(wide, tall)))
            draw.text(middle, text, "#ffffff", font, "mm", stroke_width=2, stroke_fill=DARK)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
