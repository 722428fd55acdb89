"""Draws the tokens that bundles keep of one input, as an SVG file: `python -m tokexport.exporter.report.picture`.

    python -m tokexport.exporter.report.picture BUNDLE [BUNDLE ...] --image F [--prompt T] -o overlay.svg

One bundle: the input, the kept tokens, and the merged result in pixels. Several: the input, then the tokens that each
of them keeps, with its answer where there is a prompt.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import RequestError, TokexportError
from .figures import Figure, figure
from .look import Look
from .picks import Picks
from .pixels import pixels_of

if TYPE_CHECKING:
    from ...runtimes.session import Session

_WIDTH, _PAD, _HEAD = 300, 16, 46
_SURFACE, _INK, _SOFT = "#10151b", "#f0f4f8", "#a9b6c4"


def draw(bundles: Sequence[Path], media: Path, prompt: str = "") -> str:
    """The picture as the text of an SVG file, on a surface of its own that suits light and dark pages.

    Args:
        bundles: folders; all of models that take this input.
        media: an image, a video or a sound file.
        prompt: asked of each bundle that answers.

    Raises:
        RequestError, BundleError: no bundle, an input that it does not take, or one that has no picture.
    """
    from ...runtimes.load import load

    sessions = [load(bundle) for bundle in bundles]
    figures = [_figure(number, session, media, prompt) for number, session in enumerate(sessions)]
    apart = len(figures[0].panels) > 1
    panels = [("Input", f"{figures[0].look.picks.tokens} tokens", figures[0], 0)] if apart else []
    for session, drawn in zip(sessions, figures):
        picks = drawn.look.picks
        said = f": “{drawn.look.said}”" if drawn.look.said is not None else ""
        kept = f"{len(picks.kept)} of {picks.tokens} tokens{said}"
        panels.append((session.variant.compression[0].method, kept, drawn, int(apart)))
    if len(figures) == 1 and len(figures[0].panels) == 3:
        panels.append(("What is left", "in pixels, mean of each slot", figures[0], 2))
    return _compose(panels, prompt)


def _figure(number: int, session: Session, media: Path, prompt: str) -> Figure:
    from ...runtimes.media.encoder_input import encoder_input

    record = session.bundle.manifest.preprocess
    array = encoder_input(media, record, session.bundle.path)
    grid = session.variant.compression[0].seam.grid
    shape = tuple(grid) if grid else None
    pixels = pixels_of(array, record, shape)
    if pixels is None or shape is None:
        raise RequestError(
            "this bundle does not record the grid of its tokens, so they cannot be drawn over the input",
            where=str(session.bundle.path),
        )
    asks = session.variant.generation is not None and (prompt or pixels.sound)
    said = session.generate(media, prompt).text if asks else None
    return figure(number, Look(array, Picks.of(session.encode(array)), prompt, said), pixels, shape)


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
        parts.append(
            f"{_line(title, x, y + 16, 16, _INK, 700)}{_line(under, x, y + 36, 14, _SOFT)}"
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


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--image", "--video", "--audio", "media", required=True, type=click.Path(path_type=Path), help="The input."
)
@click.option("--prompt", default="", help="The question for each bundle that has language graphs.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="SVG file.")
def main(bundles: tuple[Path, ...], media: Path, prompt: str, out: Path) -> None:
    """Draw the tokens that BUNDLES keep of one input."""
    from ...runtimes.bundle.losses import refuse_loss

    try:
        refuse_loss(out, [media, *bundles])
        out.write_text(draw(bundles, media, prompt), encoding="utf-8")
    except TokexportError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"error: {out} cannot be written: {error.strerror}. Name another file with -o.", err=True)
        sys.exit(2)
    click.echo(out)


if __name__ == "__main__":
    main()
