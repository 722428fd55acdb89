"""`tokexport run`."""

from __future__ import annotations

import contextlib
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import RequestError
from .. import progress, render, tables
from .shared import OUT, common, one_input

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...runtimes.bundle.manifest import Preprocess
    from ...runtimes.session import Session
    from ...runtimes.transcribe import Listening

# Kind of preprocessing -> the option that takes such an input.
_OPTIONS = {"image": "--image", "video": "--video", "log_mel": "--audio", "waveform": "--audio"}
# Of an embedding, on the terminal.
_SHOWN = 8
_NAMES = {"--image": "images", "--video": "videos", "--audio": "sound"}


@click.command(short_help="Ask a bundle a question, or have it transcribe a sound.")
@click.argument("bundle", type=OUT)
@click.option("--image", type=OUT, help="An image file.")
@click.option("--video", type=OUT, help="An animated GIF, WebP or PNG file, or a folder of pictures, one a frame.")
@click.option("--audio", type=OUT, help="A sound file, for a speech model.")
@click.option(
    "--prompt", help="A question about the image or video; for a sound, words that its transcript begins with."
)
@click.option("--runtime", type=click.Choice(["ort", "tensorrt"]), default="ort", show_default=True)
@click.option("--language", metavar="CODE", help="Of the speech, such as en.  [default: the one that is heard]")
@click.option("--task", help="transcribe, or translate to English, where the model has both.")
@click.option("--timestamps", is_flag=True, help="A line for each segment of the speech, with its times in seconds.")
@click.option("--variant", metavar="NAME", help="Of the bundle.  [default: the first, or the window that fits a sound]")
@click.option("--max-new-tokens", type=click.IntRange(1), help="At most this many; the bundle's own limit otherwise.")
@common
def run(
    bundle: Path,
    image: Path | None,
    video: Path | None,
    audio: Path | None,
    prompt: str | None,
    runtime: str,
    language: str | None,
    task: str | None,
    timestamps: bool,
    variant: str | None,
    max_new_tokens: int | None,
    as_json: bool,
) -> None:
    """Ask BUNDLE a question about an image or a video, or have it transcribe a sound.

    A bundle without language graphs encodes its input and shows the tokens kept; an image tower gives its classes or
    embedding. A long sound is read piece by piece.
    --runtime tensorrt runs the engines that `tokexport build` wrote into the bundle.
    """
    from ...runtimes.examples import question
    from ...runtimes.load import load
    from ...runtimes.speech import Asked, check

    option, media = one_input({"image": image, "video": video, "audio": audio})
    session = load(bundle, runtime, variant=variant)
    _check_kind(session.preprocess, bundle, option)
    check(Asked(language, task, timestamps), session.variant.generation, str(bundle))
    answers = session.variant.generation is not None
    if option != "--audio" and not (prompt or "").strip() and (answers or prompt is not None):
        fix = f"Ask something: --prompt {question(session.bundle.manifest)!r}"
        raise RequestError("the prompt is empty", fix=fix)
    if not answers:
        _encode(session, media, prompt, option, as_json)
        return
    with _listening() as listening:
        answer = session.generate(
            media,
            prompt or "",
            max_new_tokens=max_new_tokens,
            language=language,
            task=task,
            timestamps=timestamps,
            listening=listening,
        )
    for note in (*session.all_notes(), *answer.notes):
        click.echo(f"note: {note}", err=True)
    render.result(answer.to_json(), as_json, _written)


@contextlib.contextmanager
def _listening() -> Iterator[Listening]:
    """Tells how much of a long sound was heard; nothing is shown before the first piece of one."""
    with contextlib.ExitStack() as shown:
        advance: list[progress.Advance] = []

        def listening(seconds: float, there: float) -> None:
            if not advance:
                advance.append(shown.enter_context(progress.bar()))
            advance[0](math.floor(seconds), math.ceil(there), f"heard until {seconds:.1f} s")

        yield listening


def _written(data: dict[str, Any]) -> None:
    """Print an answer: its text, or a line for each segment."""
    if data.get("segments") is None:
        click.echo(data["text"])
        return
    for segment in data["segments"]:
        click.echo(f"[{segment['start']:.2f} - {segment['end']:.2f}] {segment['text']}")


def _encode(session: Session, media: Path, prompt: str | None, option: str, as_json: bool) -> None:
    """Run the encoder of a bundle without language graphs, and show what it gives and which tokens it keeps."""
    from ...runtimes.classes import likeliest
    from ...runtimes.examples import question

    if session.reads_text and not (prompt or "").strip():
        fix = f"Ask something: --prompt {question(session.bundle.manifest)!r}"
        raise RequestError("the tokens that this encoder keeps depend on the question, and there is none", fix=fix)
    encoded = session.encode(media, prompt if session.reads_text else None)
    if prompt and not session.reads_text:
        click.echo("note: the bundle has no language graphs, so the question is not asked", err=True)
    for note in session.notes():
        click.echo(f"note: {note}", err=True)
    record = session.variant.compression
    data: dict[str, Any] = {
        "tokens_in": record[0].tokens_in,
        "shape": list(encoded["tokens"].shape),
        **{name: encoded[name][0].tolist() for name in ("kept_indices", "sizes") if name in encoded},
        **({"classes": likeliest(encoded["logits"], session.labels)} if "logits" in encoded else {}),
        **({"embedding": encoded["embedding"][0].tolist()} if "embedding" in encoded else {}),
        "draw": f"tokexport show {shlex.quote(str(session.bundle.path))} {option} {shlex.quote(str(media))}",
    }
    render.result(data, as_json, kept)


def kept(data: dict[str, Any]) -> None:
    """Print what the encoder of a bundle made of its input, and which tokens it kept."""
    slots, dim = data["shape"][1:]
    for one in data.get("classes", ()):
        click.echo(f"{one['probability']:6.1%}  {one['label']}")
    if "embedding" in data:
        _embedded(data["embedding"])
    asked = "" if {"classes", "embedding"} & data.keys() else "; the bundle has no language graphs to ask"
    click.echo(f"{data['tokens_in']} tokens became {slots} of {dim} channels{asked}")
    if "kept_indices" in data:
        pairs = zip(data["kept_indices"], data.get("sizes") or [1.0] * slots)
        shown = " ".join(f"{at}" + (f"({size:g})" if size != 1 else "") for at, size in pairs)
        tables.wrapped("kept positions (sizes): ", shown)
    click.echo(f"as a picture: {data['draw']}")


def _embedded(embedding: list[float]) -> None:
    """Print the beginning of an embedding, its length, and how to get all of it."""
    shown = " ".join(f"{value:.4f}" for value in embedding[:_SHOWN]) + (" ..." if len(embedding) > _SHOWN else "")
    length = math.hypot(*embedding)
    click.echo(f"embedding of {len(embedding)} numbers, length {length:.4f}: {shown}")
    click.echo("all of it: --json, or in Python tokexport.load(BUNDLE).encode(FILE)['embedding']")


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
