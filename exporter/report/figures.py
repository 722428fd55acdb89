"""Draws a look as a figure: the input, the kept tokens, and the merged result, side by side or as rows of sound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .look import Look
from .overlay import Layout, paint, squares
from .picks import Picks
from .pixels import Pixels, slot_means
from .stages import Stage

_ROW = 250
_STRIP, _BARS, _AXIS, _GAP = 84, 46, 20, 14
_SURFACE, _INK = "#0b0f14", "#c9d1d9"


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes:
        title: heading.
        label: text for screen readers.
        size: (width, height) of its view box.
        markup: the content of the svg element.
        defs: the picture that the markup shows by `href`, where no earlier panel defines it.
    """

    title: str
    label: str
    size: tuple[int, int]
    markup: str
    defs: str = ""


@dataclass(frozen=True)
class Figure:
    """All panels of one input.

    Attributes:
        wide: its panels take the full width.
        bars: sizes are bars beside the tokens, not numbers in them.
        notes: remarks on this drawing.
        slots: (slot, its position, size) of each slot.
        stages: (title, its panels) of each compressor, where there are several.
    """

    number: int
    look: Look
    panels: list[Panel]
    wide: bool
    notes: list[str] = field(default_factory=list)
    slots: list[tuple[int, str, str]] = field(default_factory=list)
    bars: bool = False
    stages: list[tuple[str, list[Panel]]] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """The picks in one sentence."""
        return summary(self.look.picks)


def summary(picks: Picks) -> str:
    """The picks of one input in one sentence."""
    merged, lost = int(picks.merged.sum()), int(picks.lost.sum())
    parts = [f"{picks.tokens} tokens become {len(picks.kept)}"]
    if merged:
        slots = len(picks.merging())
        parts.append(f"{merged} merged into {slots} slot{'' if slots == 1 else 's'}")
    if lost:
        parts.append(f"{lost} dropped")
    if not (merged or lost):
        parts.append("all kept")
    return ", ".join(parts)


def figure(
    number: int, look: Look, pixels: Pixels | None, grid: tuple[int, ...] | None, stages: Sequence[Stage] = ()
) -> Figure:
    """Draw one look.

    Args:
        number: from 0; makes the ids in its markup unique.
        look: the input and the picks.
        pixels: the input as a picture, None where it has none.
        grid: of the tokens, None where it is unknown.
        stages: of the look.
    """
    notes: list[str] = []
    bars = pixels is not None and pixels.sound and grid is not None and len(grid) == 1
    if pixels is not None and bars:
        panels, wide = [_sound(number, look.picks, pixels)], True
    elif pixels is not None and grid is not None and len(grid) == 2:
        panels, wide = _image(number, look.picks, pixels, grid), False
    elif pixels is not None and grid is not None and len(grid) == 3:
        panels, wide = _video(number, look.picks, pixels, grid), True
        notes = ["The frames are side by side, the first on the left; a row goes through all of them."]
    else:
        panels, wide = [_sequence(look.picks)], True
        known = "unknown" if grid is None else "x".join(map(str, grid)) + ", which is not drawn here"
        notes = [f"The grid of the tokens is {known}: they are shown as a sequence, in reading order."]
        if pixels is not None:
            size, defs, shown = _shown(number, pixels)
            panels.insert(0, Panel("Input", "the input of the encoder", size, shown, defs))
            wide = pixels.sound
    notes += [pixels.note[:1].upper() + pixels.note[1:] + "."] if pixels is not None and pixels.note else []
    drawn = [(stage.title, _stage(number, look, pixels, stage)) for stage in stages]
    return Figure(number, look, panels, wide, notes, _table(look.picks, grid), bars, drawn)


def _stage(number: int, look: Look, pixels: Pixels | None, stage: Stage) -> list[Panel]:
    """The panels behind one compressor; the picture below them is that of the figure."""
    panels = figure(number, replace(look, picks=stage.picks), pixels, stage.grid).panels
    return [replace(panel, defs="") for panel in panels if panel.title.startswith(("Kept", "What", "Input above"))]


def _shown(number: int, pixels: Pixels, size: tuple[int, int] | None = None) -> tuple[tuple[int, int], str, str]:
    """(size, the picture as an SVG symbol, the element that shows it in full size)."""
    height, width = pixels.rgb.shape[:2]
    size = size or (480, round(480 * height / width))
    crisp = " style='image-rendering:pixelated'" if max(height, width) < 200 else ""
    symbol = (
        f"<symbol id='input-{number}' viewBox='0 0 {width} {height}' preserveAspectRatio='none'><image width='{width}' "
        f"height='{height}' preserveAspectRatio='none'{crisp} href='{pixels.data_url()}'/></symbol>"
    )
    return size, symbol, f"<use href='#input-{number}' width='{size[0]}' height='{size[1]}'/>"


def _image(number: int, picks: Picks, pixels: Pixels, grid: tuple[int, ...]) -> list[Panel]:
    height, width = pixels.rgb.shape[:2]
    layout = squares((grid[0], grid[1]), width / height)
    size, symbol, shown = _shown(number, pixels, layout.size)
    panels = [
        Panel(f"Input: {picks.tokens} tokens", "the input of the encoder", size, shown, symbol),
        Panel(f"Kept: {len(picks.kept)} tokens", summary(picks), size, shown + paint(picks, layout)),
    ]
    # Where all sizes are 1 nothing was averaged: tokens are concatenated in the channels of their slot.
    if picks.merged.any() and picks.sizes.max() > 1:
        left = _what_is_left(picks, pixels, layout)
        panels.append(Panel("What is left, in pixels", "each part in the mean colour of its slot", size, left))
    return panels


def _video(number: int, picks: Picks, pixels: Pixels, grid: tuple[int, ...]) -> list[Panel]:
    """The frames side by side, as one image of height x (frames width) tokens."""
    frames, height, width = grid
    beside = np.arange(frames * height * width).reshape(height, frames, width).transpose(1, 0, 2).ravel()
    return _image(number, picks.moved(beside), pixels, (height, frames * width))


def _what_is_left(picks: Picks, pixels: Pixels, layout: Layout) -> str:
    """Each token in the mean colour of its slot; black where it was dropped."""
    height, width = pixels.rgb.shape[:2]
    rows, columns = layout.grid
    down = np.linspace(0, height, rows + 1).round().astype(int)
    right = np.linspace(0, width, columns + 1).round().astype(int)
    cells = [
        (right[j], down[i], max(right[j] + 1, right[j + 1]), max(down[i] + 1, down[i + 1]))
        for i in range(rows)
        for j in range(columns)
    ]
    means = slot_means(pixels, np.array(cells), picks.assignment, len(picks.kept))
    black = np.array([[11, 15, 20]], np.uint8)
    drawn = np.concatenate([means, black])[picks.assignment].reshape(rows, columns, 3)
    url = Pixels(drawn).data_url()
    return (
        f"<image width='{layout.size[0]}' height='{layout.size[1]}' preserveAspectRatio='none' "
        f"style='image-rendering:pixelated' href='{url}'/>"
    )


def _sound(number: int, picks: Picks, pixels: Pixels) -> Panel:
    """Rows of time: the spectrogram, bars of sizes, and the spectrogram with each strip kept, merged or dropped."""
    n = picks.tokens
    rows = math.ceil(n / _ROW)
    columns = math.ceil(n / rows)
    unit = max(1, round(1200 / columns))
    above = _STRIP + _BARS
    pitch = above + _STRIP + _AXIS + _GAP
    size = (unit * columns, pitch * rows)
    layout = Layout((n,), columns, size, (unit, _STRIP), pitch, above)
    mels, frames = pixels.rgb.shape[:2]
    _, symbol, _ = _shown(number, pixels)
    parts = [f"<rect width='{size[0]}' height='{size[1]}' fill='{_SURFACE}'/>"]
    for row in range(rows):
        start, span = row * columns * frames / n, columns * frames / n
        strip = (
            f"width='{size[0]}' height='{_STRIP}' viewBox='{start:g} 0 {span:g} {mels}' "
            f"preserveAspectRatio='none'><use href='#input-{number}' width='{frames}' height='{mels}'/></svg>"
        )
        parts += [f"<svg x='0' y='{row * pitch + y}' {strip}" for y in (0, above)]
        parts.append(_axis(row, layout, n, pixels.seconds, row * pitch + above + _STRIP + _AXIS - 4))
    label = f"spectrogram above, the same with its kept tokens lit below: {summary(picks)}"
    title = f"Input above, kept below: {n} tokens, {len(picks.kept)} kept"
    return Panel(title, label, size, "".join(parts) + paint(picks, layout, bars=_BARS), symbol)


def _axis(row: int, layout: Layout, n: int, seconds: float | None, y: int) -> str:
    """Ticks below a row: seconds, or token numbers where the length is unknown."""
    first = row * layout.columns
    each, name = (seconds / n, " s") if seconds else (1.0, "")
    span = layout.columns * each
    step = next(step for step in (0.1, 0.5, 1, 5, 10, 50, 100, 1000) if span / step <= 12)
    marks = []
    for tick in range(
        math.ceil(first * each / step - 1e-9), math.floor((first + layout.columns) * each / step - 1e-9) + 1
    ):
        x = (tick * step / each - first) * layout.cell[0]
        marks.append(
            f"<text x='{x + 2:.0f}' y='{y}' font-size='12' font-family='system-ui, sans-serif' fill='{_INK}'>"
            f"{tick * step:g}{name}</text><path d='M{x:.0f} {y + 2}v-14' stroke='{_INK}' stroke-width='1'/>"
        )
    return "".join(marks)


def _sequence(picks: Picks) -> Panel:
    """Tokens without a known grid: cells in reading order."""
    columns = min(48, picks.tokens)
    rows = math.ceil(picks.tokens / columns)
    layout = Layout((picks.tokens,), columns, (columns * 40, rows * 46), (40, 40), 46)
    cells = "".join(
        f"<rect x='{x}' y='{y}' width='40' height='40'/>"
        for x, y in (layout.at(token) for token in range(picks.tokens))
    )
    width, height = layout.size
    ground = (
        f"<rect width='{width}' height='{height}' fill='{_SURFACE}'/><g fill='#d7dde4' stroke='{_SURFACE}'>{cells}</g>"
    )
    title = f"Kept: {len(picks.kept)} of {picks.tokens} tokens"
    return Panel(title, summary(picks), layout.size, ground + paint(picks, layout))


def _table(picks: Picks, grid: tuple[int, ...] | None) -> list[tuple[int, str, str]]:
    rows = []
    for slot, position in enumerate(picks.kept.tolist()):
        where = str(position)
        if grid is not None and len(grid) > 1:
            frame, place = divmod(position, grid[-2] * grid[-1])
            where += f" ({f'frame {frame + 1}, ' if len(grid) == 3 else ''}row {place // grid[-1] + 1}, "
            where += f"column {place % grid[-1] + 1})"
        rows.append((slot, where, f"{float(picks.sizes[slot]):g}"))
    return rows
