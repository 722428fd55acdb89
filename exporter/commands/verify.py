"""`tokexport verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .. import render
from .shared import OUT, common


@click.command()
@click.argument("bundle", type=OUT)
@click.option("--runtime", type=click.Choice(["ort"]), default="ort", show_default=True)
@common
def verify(bundle: Path, runtime: str, as_json: bool) -> None:
    """Check the hashes of BUNDLE and prove its graphs again on this machine; PyTorch is not needed."""
    from ..verify import verify as run

    with render.progress(quiet=as_json) as step:
        result = run(bundle, runtime=runtime, step=step)
    render.result(result, as_json, verified)
    if not result["ok"]:
        sys.exit(1)


def verified(data: dict[str, Any]) -> None:
    """After `tokexport verify`."""
    render.proof_table(data["checks"])
    for note in data["notes"]:
        click.echo(f"note: {note}")
    click.echo(f"{data['bundle']}: {data['files']} files unchanged; {'proved' if data['ok'] else 'NOT PROVED'}")
