"""`tokexport devices`."""

from __future__ import annotations

from typing import Any

import click

from .. import completion, render, tables
from .shared import common, left_out


@click.command(short_help="List the devices, or show one with its sources.")
@click.argument("name", required=False, metavar="[NAME[@TENSORRT]]", shell_complete=completion.devices)
@common
@tables.wide_option
def devices(name: str | None, as_json: bool) -> None:
    """List the devices that --device knows; with NAME, all its figures with their sources, and the rules that apply."""
    from ...devices import profiles

    if name is None:
        found, wrong = profiles.known()
        render.result([_row(each) for each in found], as_json, device_table)
        left_out([*profiles.skipped(), *wrong])
        return
    render.result(_all_of(profiles.target(name)), as_json, device_page)


def _row(found: Any) -> dict[str, Any]:
    columns = ("compute_capability", "memory", "memory_kind", "memory_bandwidth", "cuda_cores", "dla")
    return {
        "name": found.name,
        "title": found.title,
        **{column: found.value(column) for column in columns},
        "precision": found.precision,
        "tensorrt": found.usual,
        "stacks": [f"{stack.name}: {stack.tensorrt}" for stack in found.stacks],
    }


def _all_of(target: Any) -> dict[str, Any]:
    from ...devices.rules import binding

    keys = ("op", "name", "check", "limit", "attribute", "dtype", "why", "source")
    rules = binding("tensorrt", target.stack.tensorrt)
    return {
        **target.profile.model_dump(mode="json"),
        "checked_against": target.stack.tensorrt,
        "rules": [{key: rule[key] for key in keys if key in rule} for rule in rules],
    }


def device_table(found: list[dict[str, Any]]) -> None:
    """Print the result of `tokexport devices`."""
    rows = tables.Table(
        *("name", "SM", "memory", "GB/s", "precision", "TensorRT", "device", "CUDA cores", "DLA", "stacks"),
        more={"device", "CUDA cores", "DLA", "stacks"},
    )
    for row in found:
        rows.add_row(
            row["name"],
            row["compute_capability"],
            f"{row['memory']} GiB {row['memory_kind']}",
            str(row["memory_bandwidth"]),
            row["precision"],
            ", ".join(dict.fromkeys(stack.rpartition(": ")[2] for stack in row["stacks"])),
            row["title"],
            str(row["cuda_cores"]),
            str(row["dla"]),
            "; ".join(row["stacks"]),
        )
    tables.show(rows)
    click.echo("All figures with their sources: tokexport devices NAME")


def device_page(data: dict[str, Any]) -> None:
    """Print the result of `tokexport devices NAME`."""
    click.echo(f"{data['name']}: {data['title']}")
    tables.wrapped(f"recommended precision {data['precision']}: ", data["precision_why"])
    rows = tables.Table("figure", "value", "note", "source", keys={"source"})
    for name, figure in data["figures"].items():
        value = ", ".join(figure["value"]) if isinstance(figure["value"], list) else str(figure["value"])
        rows.add_row(name, f"{value} {figure['unit']}".strip(), figure["note"], figure["source"])
    tables.show(rows)
    rows = tables.Table("TensorRT", "CUDA", "stack", "note", "source", keys={"source"})
    for stack in data["stacks"]:
        rows.add_row(stack["tensorrt"], stack["cuda"], stack["name"], stack["note"], stack["source"])
    tables.show(rows)
    click.echo("sources")
    for key, source in data["sources"].items():
        tables.wrapped(f"  {key}: ", f"{source['document']} ({source['read']}, seen {source['seen']})")
        if source["url"]:
            click.echo(f"    {source['url']}")
    rows = tables.Table("rule", f"holds for TensorRT {data['checked_against']}", "source", more={"source"})
    for rule in data["rules"]:
        rows.add_row(rule.get("op", rule.get("name", "graph")), rule["why"], rule["source"])
    tables.show(rows)
