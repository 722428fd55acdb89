"""`tokexport sweep`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .. import completion, render, tables
from ..progress import bar
from .shared import OUT, WHOLE, clip_options, common


@click.command(short_help="Measure methods at several ratios.")
@click.argument("source", required=False, shell_complete=completion.sources)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    shell_complete=completion.methods,
    help="A compressor, with parameters: apet:basis_slots=none; repeatable.  [default: all that fit the model]",
)
@click.option(
    "--ratio",
    "ratios",
    multiple=True,
    default=("0.5", "0.75", "0.85", "0.9"),
    show_default=True,
    help="Share of tokens removed; repeatable.",
)
@click.option(
    "--seam",
    default="auto",
    show_default=True,
    shell_complete=completion.seams,
    help="Where all methods go; `tokexport inspect` lists the seams of a file.",
)
@click.option("--seeds", type=WHOLE, default=3, show_default=True, help="How many sets of questions.")
@click.option("--questions", type=WHOLE, default=1024, show_default=True, help="Questions in a set.")
@click.option(
    "--inputs", type=OUT, help="A folder of images, videos or sounds: measures agreement instead of accuracy."
)
@click.option("--prompt", help="With --inputs: asked about each of them.")
@click.option(
    "--parts",
    type=click.Choice(["encoder", "all"]),
    default="all",
    show_default=True,
    help="With encoder no language model is read: tokens are judged, not answers.",
)
@clip_options
@click.option("-o", "--out", type=OUT, help="Folder for the results.  [default: ./<source>-sweep]")
@common
@tables.wide_option
def sweep(out: Path | None, as_json: bool, **request: Any) -> None:
    """Measure methods at several ratios on SOURCE: accuracy or agreement, and time.

    A built-in model (default tiny-vlm) answers its own questions; for a checkpoint or an ONNX file give --inputs.
    Every measurement is kept in the folder: the same command again resumes where it was stopped.
    """
    from ..sweeps.sweep import sweep as run

    try:
        with bar() as advance:
            result = run(out=out, advance=advance, **request)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; what was measured is kept: the same command goes on from there", err=True)
        sys.exit(130)
    render.result(result, as_json, swept)


def swept(data: dict[str, Any]) -> None:
    """Print the result of `tokexport sweep`: one row for each method at each ratio."""
    figure, full, cells = data["figure"], data["uncompressed"], data["cells"]
    click.echo(f"{data['source']['name']}: {data['metric']}; uncompressed {full[figure]:.3f}, {data['tokens']} tokens")
    if cells["found"]:
        click.echo(f"{cells['found']} of {cells['all']} cells were there already")
    rows = tables.Table(
        *("method", "ratio", "kept", figure, "+-", "without log(size)", "share", "encoder", "prefill", "compressor"),
        "not measured",
        more={"share", "encoder", "prefill", "compressor"},
    )
    for row in data["rows"]:
        rows.add_row(row["method"], row["ratio"], str(row["keep"]), *_cells(row, figure), row.get("reason", ""))
    tables.show(rows)
    for note in data["notes"]:
        tables.wrapped("note: ", note)
    click.echo(f"results: {data['out']}")


def _cells(row: dict[str, Any], figure: str) -> list[str]:
    """The figures of a row as text, from the main one to the compressor's time."""
    shown = {
        figure: "{:.3f}",
        "deviation" if "deviation" in row else "stderr": "{:.3f}",
        f"{figure}_without_bias": "{:.3f}",
        "share": "{:.1%}",
        "encoder_gain": "{:.2f}x",
        "prefill_gain": "{:.2f}x",
        "compressor_ms": "{:.2f} ms",
    }
    return [text.format(row[key]) if key in row else "" for key, text in shown.items()]
