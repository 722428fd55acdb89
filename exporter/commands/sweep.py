"""`tokexport sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import render, tables
from .shared import common, measuring, resumable


@click.command(short_help="Measure methods at several ratios.")
@measuring
@common
@tables.wide_option
def sweep(out: Path | None, as_json: bool, **request: Any) -> None:
    """Measure methods at several ratios on SOURCE: accuracy or agreement, and time.

    A built-in model (default tiny-vlm) answers its own questions; for a checkpoint or an ONNX file give --inputs.
    Every measurement is kept in the folder: the same command again resumes where it was stopped.
    """
    from ..sweeps.sweep import sweep as run

    with resumable() as advance:
        result = run(out=out, advance=advance, **request)
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
