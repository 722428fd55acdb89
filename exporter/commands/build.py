"""`tokexport build`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...files import size
from .. import completion, render, tables
from ..progress import bar
from .shared import OUT, common


@click.command(short_help="Build TensorRT engines for a bundle.")
@click.argument("bundle", type=OUT)
@click.option(
    "--device",
    metavar="NAME[@TENSORRT]|FILE.toml|sm_NN",
    shell_complete=completion.devices,
    help="`tokexport devices` lists them.  [default: the bundle's, else the GPU of this machine]",
)
@click.option(
    "--form",
    type=click.Choice(["portable", "plugin", "inlined"]),
    help="Form of the graphs.  [default: plugin where the plugin library is installed, else portable]",
)
@click.option(
    "--runtime",
    type=click.Choice(["tensorrt", "rtx"]),
    help="The builder; rtx needs no GPU.  [default: tensorrt where it is installed]",
)
@click.option("--variant", metavar="NAME", help="Build only this variant.  [default: all of the bundle]")
@common
@tables.wide_option
def build(as_json: bool, bundle: Path, **request: Any) -> None:
    """Build a TensorRT engine for every graph of BUNDLE, into its folder engines/."""
    from ...runtimes.bundle.reader import open_bundle
    from ...runtimes.tensorrt.engines.build import build_engines

    with bar() as advance:
        result = build_engines(open_bundle(bundle), advance=advance, **request)
    render.result(result, as_json, built)


def built(data: dict[str, Any]) -> None:
    """Print the result of `tokexport build`."""
    for result in (data, *data["further"]):
        if data["further"]:
            click.echo(f"variant {result['variant']}")
        built_one(result)


def built_one(data: dict[str, Any]) -> None:
    """Print the engines of one variant."""
    name = "TensorRT-RTX" if data["runtime"] == "tensorrt-rtx" else "TensorRT"
    limit = f", at most {data['workspace'] / 2**30:.1f} GiB a tactic" if data["workspace"] else ""
    click.echo(
        f"{data['device']} ({data['why']}), compute capability {data['compute_capability']}: "
        f"{name} {data['version']}{limit}"
    )
    columns = ("graph", "form", "because", "size", "seconds", "types compared", "plan")
    rows = tables.Table(*columns, keys={"plan"}, more={"because", "types compared"})
    for row in data["engines"]:
        compared = "; ".join(f"{look['compared']} in the {look['stage']}" for look in row["layers"])
        held, seconds = size(row["bytes"]), f"{row['seconds']:.1f}"
        rows.add_row(row["role"], row["form"], row["why"], held, seconds, compared, row["plan"])
    tables.show(rows)
    if not all(any(look["stage"] == "engine" for look in row["layers"]) for row in data["engines"]):
        tables.wrapped("note: ", "no GPU here can load these engines: types are compared when they are first loaded")
