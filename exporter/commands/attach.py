"""`tokexport attach`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import render, tables
from ..progress import progress
from .shared import OUT, WHOLE, common, input_shape, sizes


@click.command(short_help="Give anyone's language model an input for log(size).")
@click.argument("source", type=OUT, metavar="DECODER.onnx")
@click.option("-o", "--out", type=OUT, required=True, metavar="FILE.onnx", help="The file that is written.")
@click.option("--input", "bias", default="token_bias", show_default=True, metavar="NAME", help="What it is called.")
@click.option(
    "--positions",
    type=click.Choice(["input", "keep"]),
    default="input",
    show_default=True,
    help="Whether positions that the graph counts itself become an input.",
)
@click.option("--against", type=OUT, metavar="FOLDER", help="Prove it also against this checkpoint of transformers.")
@input_shape
@click.option("--seed", type=WHOLE, default=0, show_default=True, help="Of the proof's inputs.")
@click.option("--force", is_flag=True, help="Replace FILE.onnx.")
@common
def attach(out: Path, force: bool, as_json: bool, shapes: tuple[str, ...], **request: Any) -> None:
    """Put size-aware attention into a language model's ONNX file that somebody else exported.

    Its attention gets the input token_bias [batch, keys], which is added to every logit: log(size) for a token that
    was merged of `size` others, 0 for any other. Positions that the graph counts itself become the input
    position_ids, so that tokens stay where they were. The new file is proved against the old one, and with --against
    also against PyTorch.

    \b
    tokexport attach decoder_model.onnx -o sized.onnx
    tokexport attach decoder_model.onnx -o sized.onnx --against ./Qwen2-0.5B

    Exit code 1 where the proof fails; then nothing is written.
    """
    from ..attach.run import Request, attach_file

    with progress() as step:
        result = attach_file(Request(shapes=sizes(shapes), **request), out, force=force, step=step)
    render.result(result, as_json, attached)


def attached(data: dict[str, Any]) -> None:
    """Print the result of `tokexport attach`."""
    tables.proof_table(data["checks"])
    for note in data["notes"]:
        tables.wrapped("note: ", note)
    count = len(data["attentions"])
    bias, positions = data["bias"], data["positions"]
    tables.wrapped(
        "bias: ", f"{bias['name']} [{', '.join(bias['shape'])}] float32, read by {count} attention{'s' * (count != 1)}"
    )
    if positions is None:
        tables.wrapped("positions: ", "nothing was found that reads any, or they were kept")
    else:
        how = f"in place of {data['counted']}, which the graph counted" if data["counted"] else "an input as before"
        tables.wrapped("positions: ", f"{positions['name']} [{', '.join(positions['shape'])}] int64, {how}")
    if data["rotated"]:
        tables.wrapped("rotary: ", f"in front of {data['rotated']} GroupQueryAttention instead of inside")
    tables.wrapped(
        "feed it: ", "log(sizes) where merged tokens stand, 0 elsewhere; positions from kept_indices, as before them"
    )
    click.echo(f"written: {data['out']}")
