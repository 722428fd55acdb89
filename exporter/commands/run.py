"""`tokexport run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import RequestError
from .. import render
from .shared import OUT, common

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import Preprocess

# Kind of preprocessing -> the option that takes such an input.
_OPTIONS = {"image": "--image", "video": "--video", "log_mel": "--audio"}
_NAMES = {"--image": "images", "--video": "videos", "--audio": "sound"}


@click.command()
@click.argument("bundle", type=OUT)
@click.option("--image", type=OUT, help="An image file.")
@click.option("--video", type=OUT, help="An animated GIF, WebP or PNG file, or a folder of pictures, one a frame.")
@click.option("--audio", type=OUT, help="A sound file, for a speech model.")
@click.option(
    "--prompt", help="A question about the image or video; for a sound, words that its transcript begins with."
)
@click.option("--runtime", type=click.Choice(["ort", "tensorrt"]), default="ort", show_default=True)
@click.option("--variant", metavar="NAME", help="Of the bundle.  [default: the first]")
@click.option("--max-new-tokens", type=click.IntRange(1), help="At most this many; the bundle's own limit otherwise.")
@common
def run(
    bundle: Path,
    image: Path | None,
    video: Path | None,
    audio: Path | None,
    prompt: str | None,
    runtime: str,
    variant: str | None,
    max_new_tokens: int | None,
    as_json: bool,
) -> None:
    """Ask BUNDLE a question about an image or a video, or have it transcribe a sound.

    --runtime tensorrt runs the engines that `tokexport build` wrote into the bundle.
    """
    from ...runtimes.load import load

    given = {"--image": image, "--video": video, "--audio": audio}
    options = [option for option, media in given.items() if media is not None]
    if len(options) != 1:
        which = f"{' and '.join(options)} are" if options else f"none of {', '.join(given)} is"
        raise RequestError(f"{which} given", fix="Give the one that the model takes.")
    (option,) = options
    media = given[option]
    assert media is not None, "chosen because it is given"
    session = load(bundle, runtime, variant=variant)
    _check_kind(session.bundle.manifest.preprocess, bundle, option)
    if option != "--audio" and not (prompt or "").strip():
        raise RequestError("the prompt is empty", fix="Ask something: --prompt 'what colour is the circle ?'")
    answer = session.generate(media, prompt or "", max_new_tokens=max_new_tokens)
    for note in session.notes():
        click.echo(f"note: {note}", err=True)
    render.result(answer.to_json(), as_json, lambda data: click.echo(data["text"]))


def _check_kind(record: Preprocess | None, bundle: Path, option: str) -> None:
    """Refuse a kind of input that the model does not take, where the bundle records which one it takes."""
    if record is None or _OPTIONS[record.kind] == option:
        return
    wanted = _OPTIONS[record.kind]
    raise RequestError(
        f"the model takes {_NAMES[wanted]}, not {_NAMES[option]}",
        where=str(bundle),
        fix=f"Give it a file with {wanted}.",
    )
