"""Draws the tokens that bundles keep of one input, as an SVG or a PNG file, for `tokexport show`.

One bundle: the input, the kept tokens, and the merged result in pixels. Several: the input, then the tokens that each
of them keeps, with its answer where there is a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RequestError
from .figures import Figure, figure, summary
from .look import Look
from .picks import Picks
from .pixels import Pixels, pixels_of
from .stages import Stage, followed

if TYPE_CHECKING:
    from ...runtimes.session import Session

_WIDTH, _PAD, _HEAD = 300, 16, 46
# Of a letter's height, how many letters of a width stand beside each other, for most fonts.
_WIDER = 1.6
_SURFACE, _INK, _SOFT = "#10151b", "#f0f4f8", "#a9b6c4"


def write(out: Path, bundles: Sequence[Path], media: Path, prompt: str | Sequence[int] = "") -> list[dict[str, Any]]:
    """Draw into a file.

    Args:
        out: an .svg file, or a .png file for one bundle.
        bundles: folders; all of models that take this input.
        media: an image, a video or a sound file.
        prompt: text or ids, asked of each bundle that answers, where the file is an .svg; read by methods that read a
            question.

    Returns:
        ``{"bundle", "method", "tokens", "kept", "summary"}`` of each bundle.

    Raises:
        RequestError: an input that a bundle does not take, or one that has no picture; a file that cannot be written.
        BundleError: no bundle.
    """
    from ...runtimes.load import load
    from .raster import raster

    sessions = [load(bundle) for bundle in bundles]
    seen = [_seen(session, media, prompt) for session in sessions]
    found = [
        {
            "bundle": str(session.bundle.path),
            "method": _methods(session),
            "tokens": one.picks.tokens,
            "kept": len(one.picks.kept),
            "summary": summary(one.picks),
            "unasked": _unasked(session, prompt),
            "stages": [{"at": stage.title, "summary": summary(stage.picks)} for stage in one.stages],
        }
        for session, one in zip(sessions, seen)
    ]
    try:
        if out.suffix.lower() == ".svg":
            out.write_text(_drawn(sessions, seen, media, prompt), encoding="utf-8")
        else:
            whole = Stage(f"{found[0]['method']}: {found[0]['summary']}", seen[0].picks, seen[0].grid)
            raster(seen[0].stages or [whole], seen[0].pixels, seen[0].grid).save(out)
    except OSError as error:
        raise RequestError(f"{out} cannot be written: {error.strerror}", fix="Name another file with -o.") from None
    return found


def draw(bundles: Sequence[Path], media: Path, prompt: str | Sequence[int] = "") -> str:
    """The picture as the text of an SVG file, on a surface of its own that suits light and dark pages.

    Args:
        bundles: folders; all of models that take this input.
        media: an image, a video or a sound file.
        prompt: text or ids, asked of each bundle that answers.

    Raises:
        RequestError, BundleError: no bundle, an input that it does not take, or one that has no picture.
    """
    from ...runtimes.load import load

    sessions = [load(bundle) for bundle in bundles]
    return _drawn(sessions, [_seen(session, media, prompt) for session in sessions], media, prompt)


@dataclass(frozen=True)
class _Seen:
    """An input as a bundle's encoder gets it, and what is kept of it."""

    array: np.ndarray
    picks: Picks
    pixels: Pixels
    grid: tuple[int, ...]
    stages: list[Stage]


def _seen(session: Session, media: Path, prompt: str | Sequence[int]) -> _Seen:
    from ...runtimes.media.encoder_input import encoder_input
    from ...runtimes.media.video import apart

    record = session.preprocess
    array = encoder_input(media, record, session.bundle.path)
    shape = session.variant.grid
    main, *_ = session.bundle.graph("encoder", session.variant.name).inputs.values()
    pieces = len(apart(array, record, main.shape))
    if shape is not None and pieces > 1:
        # It is that of a frame, and the encoder reads one after the other.
        shape = (pieces, *shape)
    pixels = pixels_of(array, record, shape)
    if pixels is None or shape is None:
        raise RequestError(
            "this bundle does not record the grid of its tokens, so they cannot be drawn over the input",
            where=str(session.bundle.path),
        )
    picks = Picks.of(session.encode(array, prompt if session.reads_text else None))
    return _Seen(array, picks, pixels, shape, followed(session, array, picks, prompt))


def _drawn(sessions: Sequence[Session], seen: Sequence[_Seen], media: Path, prompt: str | Sequence[int]) -> str:
    figures, asked = [], prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
    for number, (session, one) in enumerate(zip(sessions, seen)):
        asks = session.variant.generation is not None and (prompt or one.pixels.sound)
        said = session.generate(media, prompt).text if asks else None
        figures.append(figure(number, Look(one.array, one.picks, asked, said), one.pixels, one.grid))
    apart = len(figures[0].panels) > 1
    panels = [("Input", f"{figures[0].look.picks.tokens} tokens", figures[0], 0)] if apart else []
    if len(figures) == 1 and seen[0].stages:
        for stage in seen[0].stages:
            look = Look(seen[0].array, stage.picks, asked, figures[0].look.said)
            drawn = figure(0, look, seen[0].pixels, stage.grid)
            kept = f"{len(stage.picks.kept)} of {stage.picks.tokens} tokens"
            panels.append((stage.title.rpartition(": ")[0], kept, drawn, int(apart)))
        return _compose(panels, asked)
    for session, drawn in zip(sessions, figures):
        picks = drawn.look.picks
        said = f": “{drawn.look.said}”" if drawn.look.said is not None else ""
        kept = f"{len(picks.kept)} of {picks.tokens} tokens{said}"
        panels.append((_methods(session), kept, drawn, int(apart)))
    if len(figures) == 1 and len(figures[0].panels) == 3:
        panels.append(("What is left", "in pixels, mean of each slot", figures[0], 2))
    return _compose(panels, asked)


def _unasked(session: Session, prompt: str | Sequence[int]) -> list[str]:
    """The seams in the language model, whose tokens depend on a question that is not there."""
    return [] if prompt else [one.seam.kind for one in session.variant.compression if one.seam.graph == "prefill"]


def _methods(session: Session) -> str:
    """What the picture shows the result of: the steps behind the last rebuilt tokens, or those in front of them."""
    records = session.variant.compression
    rebuilt = [number for number, record in enumerate(records) if record.rebuilt]
    shown = records[rebuilt[-1] + 1 :] if rebuilt else records
    return " + ".join(record.method for record in shown) or f"{records[-1].method}, rebuilt"


def _compose(panels: list[tuple[str, str, Figure, int]], prompt: str) -> str:
    """All panels under their titles: side by side, or one below the other where they are wide."""
    wide = panels[0][2].wide
    across = 3 * _WIDTH + 2 * _PAD if wide else _WIDTH
    top, parts, x = _PAD + (34 if prompt else 0), [], _PAD
    bottom = y = top
    for title, under, drawn, index in panels:
        panel = drawn.panels[index]
        width, height = panel.size
        tall = round(across * height / width)
        defs = "" if index == 2 or (index == 1 and drawn.number == 0) else drawn.panels[0].defs
        letters = min(16, round(_WIDER * across / len(title)))
        parts.append(
            f"{_line(title, x, y + 16, letters, _INK, 700)}{_line(under, x, y + 36, 14, _SOFT)}"
            f"<svg x='{x}' y='{y + _HEAD}' width='{across}' height='{tall}' viewBox='0 0 {width} {height}'>"
            f"{defs}{panel.markup}</svg>"
        )
        bottom = y + _HEAD + tall
        x, y = (x, bottom + _PAD) if wide else (x + across + _PAD, y)
    size = across + 2 * _PAD if wide else x, bottom + _PAD
    heading = _line(prompt, _PAD, _PAD + 18, 18, _INK, 700) if prompt else ""
    label = "; ".join(f"{title}: {under}" for title, under, _, _ in panels)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size[0]} {size[1]}' width='{size[0]}' "
        f"height='{size[1]}' role='img' aria-label='{escape(label, quote=True)}'>"
        f"<rect width='{size[0]}' height='{size[1]}' rx='10' fill='{_SURFACE}'/>{heading}{''.join(parts)}</svg>\n"
    )


def _line(text: str, x: int, y: int, size: int, colour: str, weight: int = 400) -> str:
    font = f"font-family='system-ui, sans-serif' font-size='{size}' font-weight='{weight}'"
    return f"<text x='{x}' y='{y}' {font} fill='{colour}'>{escape(text)}</text>"
