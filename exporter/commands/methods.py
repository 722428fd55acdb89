"""`tokexport methods`."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import click

from ...errors import RequestError, nearest
from .. import completion, render, tables
from .shared import common, left_out

# What the listing calls a method, and what that means.
_WORDS = {
    "heavy": "at real size more than 1,500 nodes or 1 % of an encoder's time; docs/methods.md has the figures",
    "cacheable": "the kept tokens depend on the input alone, so every turn of a dialogue can reuse them",
    "plugin": "TensorRT has a plugin for it; without one it runs the portable or the inlined form",
    "fixed": "a Gather, a Reshape or a pooling: it needs no plugin, the plugin form has its body inlined",
    "text": "an extra graph input [B, L, D]: the prompt's embeddings, in the same space as the tokens",
}


@click.command(short_help="List the compressors, or show one with its parameters.")
@click.argument("name", required=False, shell_complete=completion.methods)
@click.option("--recipes", is_flag=True, help="List the recipes instead: compressors in sequence, for --recipe.")
@common
@tables.wide_option
def methods(name: str | None, recipes: bool, as_json: bool) -> None:
    """List the compressors; with NAME, one of them: its parameters, the counts it takes, its cost and its source."""
    if recipes:
        from ...graph_passes import recipes as known

        _refuse_name(name, known.names())
        render.result(known.table(), as_json, recipe_list)
        left_out(known.skipped())
        return
    if name is not None:
        from ...graph_passes.method_page import page

        render.result(page(name), as_json, method_page)
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
        tables.wrapped(f"{row['name']:<16} ", row["summary"])
        for line in lines:
            tables.wrapped(f"{'':<16} ", line)
    tables.wrapped("", "A recipe by ratio scales with the model; --recipe FILE.toml takes one of your own")


def _step(number: int, step: dict[str, Any]) -> str:
    shares = {key: f"{share} of K" for key, share in step.get("shares", {}).items()}
    params = " ".join(f"{key}={render.flat(value)}" for key, value in {**step.get("params", {}), **shares}.items())
    how = f"removes {step['ratio']}" if "ratio" in step else f"keeps {step['keep']}"
    return f"{number}. {step['method']} at {step.get('seam', 'auto')} {how}" + (f"  [{params}]" if params else "")


def method_list(found: list[dict[str, Any]]) -> None:
    """Print the result of `tokexport methods`: a few lines a method (a rich table is too slow)."""
    wide = tables.is_wide()
    for row in found:
        params = " ".join(f"{key}={render.flat(value)}" for key, value in row["params"].items())
        facts = [*_facts(row), row["source"]] if wide else _facts(row)
        tables.wrapped(f"{row['name']:<16} ", row["summary"] + (f"  [{params}]" if params and wide else ""))
        tables.wrapped(f"{'':<16} ", " · ".join(facts))
        if row["heavy"] and wide:
            tables.wrapped(f"{'':<16} ", f"heavy: {row['heavy']}")
    for word, meaning in _WORDS.items():
        tables.wrapped(f"{word}: ", meaning)
    click.echo("one method, with its parameters and source: tokexport methods NAME; all: --wide")


def _facts(row: dict[str, Any]) -> list[str]:
    marks = [mark for mark in ("merges", "cacheable", "plugin", "fixed", "approximate", "heavy") if row[mark]]
    return [row["family"], ", ".join(row["modalities"]), "reads " + (", ".join(row["signals"]) or "tokens"), *marks]


def method_page(row: dict[str, Any]) -> None:
    """Print the result of `tokexport methods NAME`."""
    tables.wrapped(f"{row['name']}: ", row["summary"])
    for title, text in {
        "source": row["source"] + (" (not followed exactly)" if row["approximate"] else ""),
        "is": " · ".join(_facts(row)),
        "seam": row["seam"],
        "domain": row["domain"],
        "cost": row["cost"],
    }.items():
        tables.wrapped(f"{title:<8} ", text)
    if row["parameters"]:
        shown = tables.Table("--set", "default", "values", "meaning")
        for one in row["parameters"]:
            shown.add_row(one["name"], render.flat(one["default"]), one["values"], one["meaning"])
        tables.show(shown)
    else:
        click.echo("no parameters")
    click.echo()
    tables.prose(row["about"])


def _refuse_name(name: str | None, known: Iterable[str]) -> None:
    if name is not None:
        fix = f"Leave NAME out. {nearest(name, known, kind='recipes')}"
        raise RequestError(f"--recipes lists all recipes, and {name!r} is given as well", fix=fix)
