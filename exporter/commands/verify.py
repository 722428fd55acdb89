"""`tokexport verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .. import gate, render
from .shared import OUT, common


@click.command()
@click.argument("bundle", type=OUT)
@click.option("--runtime", type=click.Choice(["ort", "tensorrt"]), default="ort", show_default=True)
@click.option("--min-accuracy", type=float, help="Fail (exit 1) where the export counted a smaller share of answers.")
@click.option("--junit", type=OUT, metavar="FILE", help="Write a JUnit XML report, also where this fails.")
@common
def verify(bundle: Path, runtime: str, min_accuracy: float | None, junit: Path | None, as_json: bool) -> None:
    """Check the hashes of BUNDLE and prove its graphs again on this machine; PyTorch is not needed."""
    from ..verify import verify as run

    with render.progress(quiet=as_json) as step:
        result = run(bundle, runtime=runtime, min_accuracy=min_accuracy, junit=junit, step=step)
    render.result(result, as_json, verified)
    if not result["ok"]:
        sys.exit(1)


def verified(data: dict[str, Any]) -> None:
    """After `tokexport verify`."""
    render.proof_table(data["checks"])
    for note in data["notes"]:
        click.echo(f"note: {note}")
    short = gate.shortfall(data["accuracy"], data["min_accuracy"])
    if data["accuracy"]:
        click.echo(f"accuracy at the export: {data['accuracy']['compressed']:.1%}")
    proved = all(check["ok"] for check in data["checks"])
    verdict = "; ".join(["proved" if proved else "NOT PROVED", *([f"FAILED: {short}"] if short else [])])
    click.echo(f"{data['bundle']}: {data['files']} files unchanged; {verdict}")
