"""`tokexport methods`."""

from __future__ import annotations

from typing import Any

import click

from .. import render
from .shared import common


@click.command()
@common
def methods(as_json: bool) -> None:
    """List the compressors with their parameters and defaults."""
    from ...graph_passes.compressors import table

    render.result(table(), as_json, method_table)


def method_table(found: list[dict[str, Any]]) -> None:
    """After `tokexport methods`."""
    rows = render.table("method", "family", "for", "reads", "merges", "cacheable", "plugin", "parameters", "source", "")
    for row in found:
        rows.add_row(
            row["name"],
            row["family"],
            ", ".join(row["modalities"]),
            ", ".join(row["signals"]) or "tokens",
            "yes" if row["merges"] else "no",
            "yes" if row["cacheable"] else "no",
            "yes" if row["plugin"] else "no",
            " ".join(f"{key}={render.flat(value)}" for key, value in row["params"].items()),
            row["source"],
            row["summary"] + (" (approximate)" if row["approximate"] else ""),
        )
    render.show(rows)
    click.echo("cacheable: what is kept follows from the input alone, and holds for every turn of a dialogue")
    click.echo("plugin: TensorRT has a plugin for it; without one it runs the portable or the inlined form")
    click.echo("text: a further input of the graph, [B, L, D], the prompt's embeddings in the space of the tokens")
