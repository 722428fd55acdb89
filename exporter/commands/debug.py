"""`tokexport debug`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .. import completion, render, tables
from ..progress import progress
from .shared import NUMBER, OUT, WHOLE, common, input_shape, sizes

_LEVELS = ("none", "basic", "extended", "all")


@click.command(short_help="Find where two models that should agree differ first.")
@click.argument("a", shell_complete=completion.sources)
@click.option("--against", "b", metavar="B", shell_complete=completion.sources, help="What is compared with A.")
@click.option("--inputs", type=OUT, metavar="FILE.npz", help="Arrays by the names of inputs.  [default: seeded random]")
@input_shape
@click.option("--seed", type=WHOLE, default=0, show_default=True, help="Of random inputs.")
@click.option("--role", metavar="NAME", help="A graph of a bundle.  [default: all that two bundles have, else encoder]")
@click.option("--cosine", type=NUMBER, help="The least that passes.  [default: 0.9999; fp16 0.999, bf16 0.99]")
@click.option("--norm", type=NUMBER, help="How far norms may be apart.  [default: 0.001; fp16 0.01, bf16 0.03]")
@click.option(
    "--level", type=click.Choice(_LEVELS), help="ONNX Runtime's optimisations of B; A has none.  [default: all]"
)
@click.option(
    "--provider",
    metavar="NAME",
    help="ONNX Runtime's for B: cpu, cuda, tensorrt or another that it has.  [default: cpu]",
)
@click.option("--layers", is_flag=True, help="Compare and list all values, also where outputs agree.")
@click.option("--fix", type=OUT, metavar="FILE.onnx", help="Write a half-precision B with the fp32 islands it needs.")
@click.option("--record", type=OUT, metavar="FILE.npz", help="Write A's values, to compare on another machine.")
@click.option("-o", "--out", type=OUT, default=Path("tokexport-debug"), show_default=True,
              help="Folder for the smallest part that fails.")  # fmt: skip
@common
@tables.wide_option
def debug(as_json: bool, shapes: tuple[str, ...], b: str | None, record: Path | None, **request: Any) -> None:
    """Compare A with B, and find the first value that differs and the smallest graph that still fails.

    A and B are any two of: an ONNX file, a PyTorch module (package.module:callable, a checkpoint, a
    built-in model), a TensorRT engine, a bundle, or recorded values (.npz). A is taken to be right.

    \b
    tokexport debug model.onnx --against model.fp16.onnx
    tokexport debug mine:tower --against tower.onnx
    tokexport debug model.onnx --against model.engine    or tensorrt, which builds it

    Exit code 1 where outputs differ by more than the threshold.
    """
    from ..debug.explain import Request
    from ..debug.run import debug as run
    from ..debug.run import record_values

    if b is None and record is None:
        raise click.UsageError("Missing option '--against': B, which is compared with A.")
    asked = Request(b=b or "", shapes=sizes(shapes), **request)
    with progress() as step:
        if record is not None:
            written = record_values(asked, record, step)
            if b is None or not as_json:
                render.result(written, as_json, recorded)
        if b is None:
            return
        result = run(asked, step)
    render.result(result, as_json, compared)
    if not result["ok"]:
        sys.exit(1)


def recorded(data: dict[str, Any]) -> None:
    """Print the result of --record."""
    count = f"{data['values']} value{'' if data['values'] == 1 else 's'}"
    tables.wrapped(f"{data['file']}: ", f"{count} of A, with its inputs ({data['inputs']})")
    click.echo(f"compare there: tokexport debug {data['file']} --against B")


def compared(data: dict[str, Any]) -> None:
    """Print the result of `tokexport debug`."""
    for graph in data["graphs"]:
        if graph["role"]:
            click.echo(f"graph {graph['role']}")
        _graph(data, graph)
    fixed = [graph["islands"]["file"] for graph in data["graphs"] if graph["islands"] and graph["islands"]["file"]]
    verdict = "agree" if data["ok"] and not fixed else "DIFFER"
    if fixed:
        verdict += f"; {', '.join(fixed)} {'agrees' if data['ok'] else 'DIFFERS too'}"
    tables.wrapped("", f"{data['a']} and {data['b']} {verdict}", "green" if data["ok"] else "red")


def _graph(data: dict[str, Any], graph: dict[str, Any]) -> None:
    for side in ("a", "b"):
        tables.wrapped(f"{side.upper()}: ", f"{data[side]} ({graph['runs'][side]})")
    gate = graph["threshold"]
    tables.wrapped(
        "inputs: ",
        f"{graph['inputs']}; threshold of {gate['precision']}: cosine {gate['cosine']:g}, norm ratio within "
        f"{gate['norm']:g} of 1, of every row",
    )
    _rows("output", graph["outputs"])
    if graph["layers"]:
        _rows("value", graph["layers"])
    for note in graph["notes"]:
        tables.wrapped("note: ", note)
    if graph["first"] or not graph["ok"]:
        kinds = ", ".join(f"{count} by {how}" for how, count in graph["matched"].items())
        tables.wrapped("matched: ", f"{kinds or 'nothing'}")
    if graph["first"]:
        _first(graph["first"])
    if graph["piece"]:
        _piece(graph["piece"])
    if graph["islands"]:
        _islands(graph["islands"])


def _rows(kind: str, checks: list[dict[str, Any]]) -> None:
    more = {"shape", "module"} if kind == "output" else {"module"}
    rows = tables.Table(kind, "op", "shape", "module", "cosine", "norm ratio", "max |diff|", "", more=more)
    for check in checks:
        rows.add_row(check["value"], check["op"], render.flat(check["shape"]), check["scope"], *_measures(check))
    tables.show(rows)


def _measures(check: dict[str, Any]) -> tuple[str, str, str, str]:
    verdict = "ok" if check["ok"] else f"DIFFERS {check['detail']}"
    return f"{check['cosine']:.6f}", f"{check['norm_ratio']:.5f}", f"{check['max_abs']:.2e}", verdict


def _first(first: dict[str, Any]) -> None:
    click.secho("first difference", bold=True)
    for side, place in (("A", first), ("B", first["b"])):
        where = f"{place['op']} {place['node']}".strip()
        module = f" of {place['scope']}" if place["scope"] and place["scope"] != place["node"] else ""
        shape = f" {place['shape']}" if place["shape"] is not None else ""
        tables.wrapped(f"  {side}: ", f"{place['value']}{shape}, {where}{module}" if where else place["value"] + shape)
    cosine, ratio, distance, verdict = _measures(first)
    tables.wrapped("  ", f"cosine {cosine}, norm ratio {ratio}, max |diff| {distance}: {verdict}")


def _piece(piece: dict[str, Any]) -> None:
    begin = "from the inputs of the model" if piece["whole"] else "from values that agree"
    given = ", ".join(f"{name} {shape}" for name, shape in piece["inputs"].items())
    nodes = "1 node" if piece["nodes"] == 1 else f"{piece['nodes']} nodes"
    click.secho(f"smallest part of {piece['of'].upper()} that fails: {nodes}, {begin}", bold=True)
    tables.wrapped("  given ", given)
    for cause in piece["causes"]:
        tables.wrapped("  cause: ", cause)
    click.echo(f"  files: {' '.join(piece['files'])}")
    click.echo(f"  again: {piece['command']}")


def _islands(islands: dict[str, Any]) -> None:
    if not islands["nodes"]:
        tables.wrapped("islands: ", islands["why"])
        return
    click.secho("float32 islands that cure it", bold=True)
    rows = tables.Table("node", "op", "because", keys={"node"})
    for node in islands["nodes"]:
        rows.add_row(node["node"], node["op"], node["why"])
    tables.show(rows)
    tables.wrapped(
        "cost: ",
        f"{islands['casts']} Casts, {islands['weight_bytes']} bytes of weights and {islands['value_bytes']} bytes of "
        f"values more, {len(islands['nodes'])} of {islands['of']} nodes in float32",
    )
    if islands["file"]:
        click.echo(f"written: {islands['file']}")
    else:
        click.echo(f"write it: {islands['command']}")
