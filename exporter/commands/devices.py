"""`tokexport devices`."""

from __future__ import annotations

from typing import Any

import click

from .. import render
from .shared import common, left_out


@click.command()
@click.argument("name", required=False, metavar="[NAME[@TENSORRT]]")
@common
def devices(name: str | None, as_json: bool) -> None:
    """List the devices that --device knows; with NAME, all its figures with their sources, and the rules that apply."""
    from ...devices import profiles

    if name is None:
        rows = [_row(profiles.profile(each)) for each in profiles.names()]
        render.result(rows, as_json, device_table)
        left_out(profiles.skipped())
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
    rows = render.table("name", "device", "SM", "memory", "GB/s", "CUDA cores", "DLA", "precision", "TensorRT")
    for row in found:
        rows.add_row(
            row["name"],
            row["title"],
            row["compute_capability"],
            f"{row['memory']} GiB {row['memory_kind']}",
            str(row["memory_bandwidth"]),
            str(row["cuda_cores"]),
            str(row["dla"]),
            row["precision"],
            "; ".join(row["stacks"]),
        )
    render.show(rows)
    click.echo("All figures with their sources: tokexport devices NAME")


def device_page(data: dict[str, Any]) -> None:
    """Print the result of `tokexport devices NAME`."""
    click.echo(f"{data['name']}: {data['title']}")
    click.echo(f"recommended precision {data['precision']}: {data['precision_why']}")
    rows = render.table("figure", "value", "", "source")
    for name, figure in data["figures"].items():
        value = ", ".join(figure["value"]) if isinstance(figure["value"], list) else str(figure["value"])
        rows.add_row(name, f"{value} {figure['unit']}".strip(), figure["note"], figure["source"])
    for stack in data["stacks"]:
        versions = f"TensorRT {stack['tensorrt']}" + (f", CUDA {stack['cuda']}" if stack["cuda"] else "")
        rows.add_row(stack["name"], versions, stack["note"], stack["source"])
    render.show(rows)
    rows = render.table("source", "read", "seen", "document")
    for key, source in data["sources"].items():
        rows.add_row(key, source["read"], source["seen"], f"{source['document']} {source['url']}".strip())
    render.show(rows)
    rows = render.table("rule", f"holds for TensorRT {data['checked_against']}", "source")
    for rule in data["rules"]:
        rows.add_row(rule.get("op", rule.get("name", "graph")), rule["why"], rule["source"])
    render.show(rows)
