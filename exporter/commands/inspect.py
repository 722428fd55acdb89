"""`tokexport inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import render, tables
from .shared import OUT, common, input_shape, sizes


@click.command()
@click.argument("path", metavar="MODEL.onnx", type=OUT)
@input_shape
@common
@tables.wide_option
def inspect(path: Path, shapes: tuple[str, ...], as_json: bool) -> None:
    """List the seams of an ONNX file: where a compressor can go, and which signals it can read there."""
    from ...graph_passes.ir_tools.input_shapes import fix_inputs, raise_opset
    from ...graph_passes.ir_tools.model_io import load_model
    from ...graph_passes.seams.find import describe

    model, _ = raise_opset(load_model(path))
    fix_inputs(model, sizes(shapes))
    render.result(describe(model), as_json, inspected)


def inspected(data: dict[str, Any]) -> None:
    """Print the result of `tokexport inspect`."""
    for key, value in data.items():
        if key != "seams":
            tables.wrapped(f"{key}: ", render.flat(value))
    if data["seams"]:
        more = {*data["seams"][0]} - {"tokens", "dim", "grid", "signals", "why"}
        rows = tables.Table(*data["seams"][0], keys={"tensor"}, more=more)
        for seam in data["seams"]:
            rows.add_row(*(render.flat(value) for value in seam.values()))
        tables.show(rows)
