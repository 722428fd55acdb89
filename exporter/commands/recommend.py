"""`tokexport recommend`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .. import completion, render, tables
from .shared import NUMBER, WHOLE, common, measuring, resumable


@click.command(short_help="Choose a method and a number of tokens for a goal.")
@measuring
@click.option("--tokens", type=WHOLE, metavar="K", help="Goal: the least loss with exactly K tokens.")
@click.option(
    "--latency-ms", type=NUMBER, metavar="L", help="Goal: the least loss within L milliseconds, on this machine."
)
@click.option("--loss", type=NUMBER, metavar="X", help="Goal: the least time with at most this loss, such as 0.01.")
@click.option(
    "--device",
    metavar="NAME[@TENSORRT]|FILE.toml|sm_NN",
    shell_complete=completion.devices,
    help="Leave out what its rules refuse; `tokexport devices` lists them. Times stay those of this machine.",
)
@common
@tables.wide_option
def recommend(out: Path | None, as_json: bool, **request: Any) -> None:
    """Measure methods on SOURCE as `tokexport sweep` does, and recommend one for a goal, with its command.

    Give one of --tokens, --latency-ms and --loss. A built-in model (default tiny-vlm) answers its own questions; for a
    checkpoint or an ONNX file give --inputs. Every measurement is kept in the folder, also that of a sweep before.

    Exit code 1: nothing that was measured reaches the goal.
    """
    from ..sweeps.recommend import recommend as run

    with resumable() as advance:
        result = run(out=out, advance=advance, **request)
    render.result(result, as_json, recommended)
    if result["recommended"] is None:
        sys.exit(1)


def recommended(data: dict[str, Any]) -> None:
    """Print the result of `tokexport recommend`: the Pareto set beside the baselines, and the recommendation."""
    figure, full = data["figure"], data["uncompressed"]
    click.echo(
        f"{data['source']['name']}: {data['metric']}; uncompressed {full[figure]:.3f}, {data['tokens']} tokens, "
        f"{full['ms']:.2f} ms"
    )
    rows = tables.Table("method", "kept", "loss", "+-", "ms", "", "not measured")
    others = 0
    for row in data["rows"]:
        taken, front = row is data["recommended"], row.get("pareto", False)
        kind = "recommended" if taken else "baseline" if row["baseline"] else "Pareto" if front else ""
        if kind and "loss" in row:
            figures = (f"{row['loss']:.3f}", f"{row['error']:.3f}", f"{row['ms']:.2f}")
            rows.add_row(row["method"], str(row["keep"]), *figures, kind, "")
        elif "reason" in row:
            rows.add_row(row["method"], str(row["keep"]), "", "", "", "", row["reason"])
        else:
            others += "loss" in row
    tables.show(rows)
    if others:
        click.echo(f"not shown: {others} that one of these beats in loss, time and tokens")
    for note in data["notes"]:
        tables.wrapped("note: ", note)
    _told("recommended", data)
    if "instead" in data:
        _told("where pictures have one size", data["instead"])


def _told(heading: str, told: dict[str, Any]) -> None:
    row = told["recommended"]
    if row is None:
        tables.wrapped("nothing to recommend: ", told["why"])
        return
    tables.wrapped(f"{heading}: ", f"{row['method']}, {row['keep']} tokens. {told['why']}")
    if told["command"]:
        click.echo(f"  {told['command']}")
    else:
        tables.wrapped(
            "  ", f"Give the model pictures of {render.flat(row['picture'])} pixels; no compressor is needed."
        )
