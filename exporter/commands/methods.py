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

    render.result(table(), as_json, method_list)


def method_list(found: list[dict[str, Any]]) -> None:
    """After `tokexport methods`: two lines a method, without the table that would take longer than all the rest."""
    for row in found:
        facts = [
            row["family"],
            ", ".join(row["modalities"]),
            "reads " + (", ".join(row["signals"]) or "tokens"),
            *(["merges"] if row["merges"] else []),
            *(["cacheable"] if row["cacheable"] else []),
            *(["plugin"] if row["plugin"] else []),
            *(["approximate"] if row["approximate"] else []),
            row["source"],
        ]
        params = " ".join(f"{key}={render.flat(value)}" for key, value in row["params"].items())
        click.echo(f"{row['name']:<16} {row['summary']}" + (f"  [{params}]" if params else ""))
        click.echo(f"{'':<16} {' · '.join(facts)}")
    click.echo("cacheable: what is kept follows from the input alone, and holds for every turn of a dialogue")
    click.echo("plugin: TensorRT has a plugin for it; without one it runs the portable or the inlined form")
    click.echo("text: a further input of the graph, [B, L, D], the prompt's embeddings in the space of the tokens")
