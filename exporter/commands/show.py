"""`tokexport show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...errors import RequestError
from .. import render
from .shared import OUT, check_kind, common, media_options, one_input, one_prompt, prompt_ids


@click.command(short_help="Draw the tokens that a bundle keeps of your own input.")
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=OUT)
@media_options()
@click.option(
    "--prompt", default="", help="A question: an SVG file shows the answer to it; some methods keep tokens by it."
)
@prompt_ids
@click.option("-o", "--out", type=OUT, help="A .png or an .svg file; .svg for several bundles.  [default: kept.png]")
@common
def show(
    bundles: tuple[Path, ...],
    out: Path | None,
    prompt: str,
    ids: tuple[int, ...],
    as_json: bool,
    **given: Path | None,
) -> None:
    """Draw the tokens that BUNDLE keeps of a picture, a video or a sound of your own.

    Kept tokens are lit, merged ones have the colour of their slot, and dropped ones are dark. Of a bundle with several
    compressors there is a picture behind each; those in the language model need a --prompt. Several bundles are drawn
    side by side.
    """
    from ...runtimes.bundle.losses import refuse_loss
    from ...runtimes.bundle.reader import open_bundle
    from ..report import picture

    option, media = one_input(given)
    out = out or Path("kept.png")
    refuse_loss(out, [media, *bundles])
    for bundle in bundles:
        manifest = open_bundle(bundle).manifest
        check_kind(manifest.preprocess_of(manifest.variants[0]), bundle, option)
    if out.suffix.lower() not in (".png", ".svg"):
        raise RequestError(f"{out} is neither a .png nor an .svg file", fix="Write for example -o kept.png.")
    if out.suffix.lower() == ".png" and len(bundles) > 1:
        raise RequestError("several bundles are drawn into an .svg file", fix="Write for example -o kept.svg.")
    kept = picture.write(out, bundles, media, one_prompt(prompt, ids) or "")
    render.result({"file": str(out), "bundles": kept}, as_json, shown)


def shown(data: dict[str, Any]) -> None:
    """Print the result of `tokexport show`."""
    for one in data["bundles"]:
        click.echo(f"{one['bundle']}: {one['method']}, {one['summary']}")
        for stage in one["stages"]:
            click.echo(f"  {stage['at']}: {stage['summary']}")
        if one["unasked"]:
            click.echo(f"  what is left behind {', '.join(one['unasked'])} depends on the question: add --prompt")
    click.echo(data["file"])
