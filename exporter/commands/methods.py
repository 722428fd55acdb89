"""`tokexport methods`."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import click

from .. import render
from .shared import common, left_out


@click.command()
@click.option("--recipes", is_flag=True, help="List the recipes instead: compressors in sequence, for --recipe.")
@common
def methods(recipes: bool, as_json: bool) -> None:
    """List the compressors with their parameters and defaults."""
    if recipes:
        from ...graph_passes import recipes as found

        render.result(found.table(), as_json, recipe_list)
        left_out(found.skipped())
        return
    from ...graph_passes.compressors import skipped, table

    render.result(table(), as_json, method_list)
    left_out(skipped())


def recipe_list(found: list[dict[str, Any]]) -> None:
    """Print the result of `tokexport methods --recipes`: summary, steps, both token budgets, and source of each."""
    for row in found:
        source, budget = row["source"], row["budget"]
        average, code, note = float(Fraction(budget["average"])), source.get("code"), budget.get("note")
        lines = [_step(number, step) for number, step in enumerate(row["steps"], 1)]
        lines.append(f"{budget['tokens']} tokens, of which {budget['entering']} enter the language model")
        lines.append(f"{average:.4g} on average over the {budget['layers']} layers of the {budget['over']}")
        lines.append(f"for {budget['model']}" + (f"; {note}" if note else ""))
        lines.append(f"{source['paper']}: {source['place']}" + (f" ({code})" if code else ""))
        lines += [f"not followed exactly: {row['approximate']}"] if row.get("approximate") else []
        click.echo(f"{row['name']:<16} {row['summary']}")
        for line in lines:
            click.echo(f"{'':<16} {line}")
    click.echo("A recipe by ratio scales with the model; --recipe FILE.toml takes one of your own")


def _step(number: int, step: dict[str, Any]) -> str:
    shares = {key: f"{share} of K" for key, share in step.get("shares", {}).items()}
    params = " ".join(f"{key}={render.flat(value)}" for key, value in {**step.get("params", {}), **shares}.items())
    how = f"removes {step['ratio']}" if "ratio" in step else f"keeps {step['keep']}"
    return f"{number}. {step['method']} at {step.get('seam', 'auto')} {how}" + (f"  [{params}]" if params else "")


def method_list(found: list[dict[str, Any]]) -> None:
    """Print the result of `tokexport methods`: two lines a method (a rich table is too slow)."""
    for row in found:
        facts = [
            row["family"],
            ", ".join(row["modalities"]),
            "reads " + (", ".join(row["signals"]) or "tokens"),
            *(["merges"] if row["merges"] else []),
            *(["cacheable"] if row["cacheable"] else []),
            *(["plugin"] if row["plugin"] else []),
            *(["fixed"] if row["fixed"] else []),
            *(["approximate"] if row["approximate"] else []),
            row["source"],
        ]
        params = " ".join(f"{key}={render.flat(value)}" for key, value in row["params"].items())
        click.echo(f"{row['name']:<16} {row['summary']}" + (f"  [{params}]" if params else ""))
        click.echo(f"{'':<16} {' · '.join(facts)}")
        if row["heavy"]:
            click.echo(f"{'':<16} heavy: {row['heavy']}")
    click.echo("heavy: at real size more than 1,500 nodes or 1 % of an encoder's time; docs/methods.md has the figures")
    click.echo("cacheable: the kept tokens depend on the input alone, so every turn of a dialogue can reuse them")
    click.echo("plugin: TensorRT has a plugin for it; without one it runs the portable or the inlined form")
    click.echo("fixed: a Gather, a Reshape or a pooling: it needs no plugin, the plugin form has its body inlined")
    click.echo("text: an extra graph input [B, L, D]: the prompt's embeddings, in the same space as the tokens")
