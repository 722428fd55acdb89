"""`tokexport verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .. import render, tables
from ..progress import progress
from ..proof import gate
from .shared import NUMBER, OUT, common, runtime_options


@click.command(short_help="Check a bundle, and prove it again on this machine.")
@click.argument("bundle", type=OUT)
@runtime_options
@click.option("--variant", metavar="NAME", help="Prove only this variant.  [default: all of the bundle]")
@click.option(
    "--min-accuracy", type=NUMBER, help="Fail (exit 1) where the export measured a smaller share of right answers."
)
@click.option("--junit", type=OUT, metavar="FILE", help="Write a JUnit XML report, also when the proof fails.")
@common
def verify(bundle: Path, as_json: bool, **request: Any) -> None:
    """Check the hashes of BUNDLE and prove its graphs again on this machine; PyTorch is not needed."""
    from ..proof.verify import verify as run

    with progress() as step:
        result = run(bundle, step=step, **request)
    render.result(result, as_json, verified)
    if not result["ok"]:
        sys.exit(1)


def verified(data: dict[str, Any]) -> None:
    """Print the result of `tokexport verify`."""
    results = [data, *data["further"]]
    for result in results:
        if len(results) > 1:
            click.echo(f"variant {result['variant']}")
        tables.proof_table(result["checks"])
        for note in result["notes"]:
            tables.wrapped("note: ", note)
        if result["accuracy"]:
            click.echo(f"accuracy at the export: {result['accuracy']['compressed']:.1%}")
    proved = all(check["ok"] for result in results for check in result["checks"])
    found = {result["variant"]: gate.shortfall(result["accuracy"], data["min_accuracy"]) for result in results}
    short = [f"{name}: {text}" if len(results) > 1 else text for name, text in found.items() if text]
    short += [f"at the export: {data['failed']}"] if data["failed"] else []
    verdict = "; ".join(["proved" if proved else "NOT PROVED", *(f"FAILED: {text}" for text in short)])
    tables.wrapped(f"{data['bundle']}: ", f"{data['files']} files unchanged; {verdict}")
