"""`tokexport run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import RequestError
from .. import render
from .shared import OUT, common

if TYPE_CHECKING:
    from ...runtimes.bundle import Preprocess


@click.command()
@click.argument("bundle", type=OUT)
@click.option("--image", type=OUT, help="An image file.")
@click.option("--audio", type=OUT, help="A sound file, for a model that listens.")
@click.option("--prompt", help="A question about the image; or words that the transcript of the sound begins with.")
@click.option("--runtime", type=click.Choice(["ort", "tensorrt"]), default="ort", show_default=True)
@click.option("--variant", metavar="NAME", help="Of the bundle.  [default: the first]")
@click.option("--max-new-tokens", type=click.IntRange(1), help="At most this many; the bundle's own limit otherwise.")
@common
def run(
    bundle: Path,
    image: Path | None,
    audio: Path | None,
    prompt: str | None,
    runtime: str,
    variant: str | None,
    max_new_tokens: int | None,
    as_json: bool,
) -> None:
    """Ask BUNDLE a question about an image, or have it write down a sound.

    With --runtime tensorrt the engines answer that `tokexport build` put into it.
    """
    from ...runtimes.load import load

    media = image or audio
    if media is None or (image and audio):
        which = "neither --image nor --audio is" if media is None else "both --image and --audio are"
        raise RequestError(f"{which} given", fix="Give the one that the model takes.")
    session = load(bundle, runtime, variant=variant)
    _check_kind(session.bundle.manifest.preprocess, bundle, listens=audio is not None)
    if image and not (prompt or "").strip():
        raise RequestError("the prompt is empty", fix="Ask something: --prompt 'what colour is the circle ?'")
    answer = session.generate(media, prompt or "", max_new_tokens=max_new_tokens)
    for note in session.notes():
        click.echo(f"note: {note}", err=True)
    render.result(answer.to_json(), as_json, lambda data: click.echo(data["text"]))


def _check_kind(record: Preprocess | None, bundle: Path, *, listens: bool) -> None:
    """Refuse a sound for a model that looks, and an image for one that listens."""
    if record is None or (record.kind == "log_mel") == listens:
        return
    takes, given, option = ("images", "sound", "--image") if listens else ("sound", "images", "--audio")
    raise RequestError(f"the model takes {takes}, not {given}", where=str(bundle), fix=f"Give it a file with {option}.")
