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
from .shared import (
    OUT,
    POSITIVE,
    Prompt,
    check_kind,
    common,
    media_options,
    one_input,
    one_prompt,
    only,
    prompt_ids,
    runtime_options,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...runtimes.session import Session
    from ...runtimes.transcribe import Listening

# Of an embedding, on the terminal.
_SHOWN = 8


@click.command(short_help="Ask a bundle a question, or have it transcribe a sound.")
@click.argument("bundle", type=OUT)
@media_options(images=True)
@click.option("--prompt", help="A question about the input; for a recogniser, words that its transcript begins with.")
@prompt_ids
@runtime_options
@click.option("--language", metavar="CODE", help="Of the speech, such as en.  [default: the one that is heard]")
@click.option("--task", help="transcribe, or translate to English, where the model has both.")
@click.option("--timestamps", is_flag=True, help="A line for each segment of the speech, with its times in seconds.")
@click.option("--variant", metavar="NAME", help="Of the bundle.  [default: the first, or the window that fits a sound]")
@click.option("--max-new-tokens", type=POSITIVE, help="At most this many; the bundle's own limit otherwise.")
@common
def run(
    bundle: Path,
    image: tuple[Path, ...],
    video: Path | None,
    audio: Path | None,
    prompt: str | None,
    ids: tuple[int, ...],
    runtime: str,
    provider: str | None,
    language: str | None,
    task: str | None,
    timestamps: bool,
    variant: str | None,
    max_new_tokens: int | None,
    as_json: bool,
) -> None:
    """Ask BUNDLE a question about an image or several, a video or a sound, or have it transcribe one.

    A bundle without language graphs encodes its input and shows the tokens kept; an image tower gives its classes or
    embedding. A long sound is read piece by piece.
    --runtime tensorrt runs the engines that `tokexport build` wrote into the bundle; --provider cuda runs ONNX
    Runtime on an NVIDIA GPU.
    """
    from ...runtimes.images import check_count
    from ...runtimes.load import load
    from ...runtimes.speech import Asked, check

    option, media = one_input({"image": image, "video": (video,) if video else (), "audio": (audio,) if audio else ()})
    session = load(bundle, runtime, variant=variant, provider=provider)
    check_kind(session.preprocess, bundle, option)
    generation = session.variant.generation
    if generation:
        check_count(generation, len(media))
    check(Asked(language, task, timestamps), generation, str(bundle))
    answers, transcribes = generation is not None, generation is not None and generation.attention == "cross"
    asked = one_prompt(prompt, ids)
    # Where nothing stands behind a prompt, it is what the answer begins with, and may be empty.
    continued = generation is not None and generation.prompt is not None and not generation.prompt.after
    silent = not ids and not (prompt or "").strip()
    if not transcribes and silent and not continued and (answers or prompt is not None):
        raise RequestError("the prompt is empty", fix=_ask(session))
    if not answers:
        _encode(session, only(option, media), asked, option, as_json)
        return
    with _listening() as listening:
        answer = session.generate(
            media if len(media) > 1 else media[0],
            asked or "",
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


def _ask(session: Session) -> str:
    """What to type where the question is missing."""
    from ...runtimes.examples import question

    if session.bundle.manifest.processor.kind == "none":
        return "The bundle reads no words. Ask by the ids of your tokenizer: --prompt-ids 1,2,3"
    return f"Ask something: --prompt {question(session.bundle.manifest)!r}"


def _encode(session: Session, media: Path, prompt: Prompt | None, option: str, as_json: bool) -> None:
    """Run the encoder of a bundle without language graphs, and show what it gives and which tokens it keeps."""
    from ...runtimes.classes import likeliest

    if session.reads_text and not prompt:
        raise RequestError(
            "the tokens that this encoder keeps depend on the question, and there is none", fix=_ask(session)
        )
    encoded = session.encode(media, prompt if session.reads_text else None)
    if prompt and not session.reads_text:
        click.echo("note: the bundle has no language graphs, so the question is not asked", err=True)
    for note in session.notes():
        click.echo(f"note: {note}", err=True)
    record = session.variant.compression
    rebuilt = any(one.rebuilt for one in record)
    data: dict[str, Any] = {
        "tokens_in": encoded["assignment"].shape[1] if rebuilt else record[0].tokens_in,
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
