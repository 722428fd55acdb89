"""What the commands print: tables for people, JSON for machines, progress on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from . import interrupt

if TYPE_CHECKING:
    from rich.table import Table

Step = Callable[[str], None]


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Step]:
    """A spinner on stderr that names the current step; silent where stderr is not a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda text: interrupt.check()
        return
    with console.status("starting") as status:

        def step(text: str) -> None:
            interrupt.check()
            status.update(text)

        yield step


def result(data: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """Print `data` as JSON, or through `show` for a person."""
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        show(data)


def exported(data: dict[str, Any]) -> None:
    """After `tokexport model`: what was done, the proof, and where the bundle is."""
    for done in data["compression"]:
        seam = done["seam"]
        click.echo(
            f"{data['source']}: {done['method']} at {seam['kind']} ({seam['tensor']}), "
            f"{done['tokens_in']} -> {done['tokens_out']} tokens, "
            f"size bias {'on' if done['size_bias'] else 'off'}, {data['precision']}"
        )
    for note in data["notes"]:
        click.echo(f"note: {note}")
    if data["proof"]:
        proof_table(data["proof"]["checks"])
    else:
        click.echo("NOT VERIFIED (--no-verify)")
    if data.get("drift"):
        drift = data["drift"]
        click.echo(
            f"end to end against PyTorch: {drift['kept_overlap']:.1%} of the kept tokens are the same, "
            f"worst cosine of the outputs {drift['cosine']:.5f}"
        )
    if data.get("accuracy"):
        accuracy = data["accuracy"]
        click.echo(
            f"accuracy on {accuracy['questions']} questions: {accuracy['compressed']:.1%} "
            f"(uncompressed {accuracy['uncompressed']:.1%})"
        )
    click.echo(f"bundle: {data['bundle']}")


def verified(data: dict[str, Any]) -> None:
    """After `tokexport verify`."""
    proof_table(data["checks"])
    for note in data["notes"]:
        click.echo(f"note: {note}")
    click.echo(f"{data['bundle']}: {data['files']} files unchanged; {'proved' if data['ok'] else 'NOT PROVED'}")


def proof_table(checks: list[dict[str, Any]]) -> None:
    """One row for each tensor that was compared."""
    table = _table("part", "tensor", "cosine", "norm ratio", "max |diff|", "flipped", "")
    for check in checks:
        verdict = "ok" if check["ok"] else f"FAILED {check['detail']}"
        table.add_row(
            check["part"],
            check["tensor"],
            f"{check['cosine']:.6f}",
            f"{check['norm_ratio']:.5f}",
            f"{check['max_abs']:.2e}",
            str(check["flipped"]) if check["part"] == "compressor" else "",
            verdict,
        )
    _print(table)


def inspected(data: dict[str, Any]) -> None:
    """After `tokexport inspect`."""
    for key, value in data.items():
        if key != "seams":
            click.echo(f"{key}: {_flat(value)}")
    if data["seams"]:
        table = _table(*data["seams"][0])
        for seam in data["seams"]:
            table.add_row(*(_flat(value) for value in seam.values()))
        _print(table)


def method_table(rows: list[dict[str, Any]]) -> None:
    """After `tokexport methods`."""
    table = _table("method", "family", "for", "reads", "merges", "parameters", "source", "")
    for row in rows:
        table.add_row(
            row["name"],
            row["family"],
            ", ".join(row["modalities"]),
            ", ".join(row["signals"]) or "tokens",
            "yes" if row["merges"] else "no",
            " ".join(f"{key}={_flat(value)}" for key, value in row["params"].items()),
            row["source"],
            row["summary"] + (" (approximate)" if row["approximate"] else ""),
        )
    _print(table)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console()
    # Piped output has no width of its own: 80 columns would break tensor names in the middle.
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_flat(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value)) if all(isinstance(v, int) for v in value) else "; ".join(map(_flat, value))
    return "" if value is None else str(value)
