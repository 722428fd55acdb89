"""`tokexport run`."""

from __future__ import annotations

from pathlib import Path

import click

from ...errors import RequestError
from .. import render
from .shared import OUT, common


@click.command()
@click.argument("bundle", type=OUT)
@click.option("--image", type=OUT, required=True, help="An image file.")
@click.option("--prompt", required=True, help="A question about it.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="At most this many; the bundle's own limit otherwise.")
@common
def run(bundle: Path, image: Path, prompt: str, max_new_tokens: int | None, as_json: bool) -> None:
    """Ask BUNDLE a question about an image, with ONNX Runtime."""
    from ...runtimes.load import load

    if not prompt.strip():
        raise RequestError("the prompt is empty", fix="Ask something: --prompt 'what colour is the circle ?'")
    answer = load(bundle).generate(image, prompt, max_new_tokens=max_new_tokens)
    render.result(answer.to_json(), as_json, lambda data: click.echo(data["text"]))
