"""`tokexport export-to`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...files import size
from .. import render, tables
from ..progress import progress
from .shared import OUT, common


@click.command(name="export-to", short_help="Write a bundle as what another runtime reads.")
@click.argument("bundle", type=OUT)
@click.option(
    "--target", type=click.Choice(["ort-genai", "transformers-js"]), required=True, help="The runtime that reads it."
)
@click.option("--variant", metavar="NAME", help="Which variant of the bundle.  [default: its first]")
@click.option(
    "--llm",
    type=OUT,
    metavar="FOLDER",
    help="A language model that another tool exported for this runtime: the bundle's encoder goes beside it.",
)
@click.option(
    "--size-bias",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="off: with --llm, merged tokens weigh one.",
)
@click.option("-o", "--out", type=OUT, help="A new or empty folder.  [default: BUNDLE-TARGET]")
@click.option("--force", is_flag=True, help="Write into a folder that holds other files, and delete all of them.")
@common
def export_to(bundle: Path, out: Path | None, as_json: bool, **request: Any) -> None:
    """Write BUNDLE as the folder of another runtime, which then runs the compressed model.

    With --llm FOLDER only the encoder of BUNDLE is written, beside the language model in FOLDER, which gets inputs for
    merged tokens as `tokexport attach` does it. FOLDER is not changed.

    What the runtime cannot carry is refused before anything is written; docs/other-runtimes.md has the list.
    """
    from ..other_runtimes.export import export_to as run

    out = out or bundle.with_name(f"{bundle.name}-{request['target']}")
    with progress() as step:
        result = run(bundle, out=out, step=step, **request)
    render.result(result, as_json, written)


def written(data: dict[str, Any]) -> None:
    """Print the result of `tokexport export-to`."""
    rows = tables.Table("file", "size")
    for name, held in data["files"].items():
        rows.add_row(name, size(held))
    tables.show(rows)
    for note in data["notes"]:
        tables.wrapped("note: ", note)
    click.echo(f"for {data['target']}: {data['out']}")
