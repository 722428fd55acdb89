"""`tokexport inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import completion, render, tables
from ..progress import progress
from .shared import common, input_shape, sizes

if TYPE_CHECKING:
    import onnx_ir as ir


@click.command(short_help="List the seams of a source or a bundle.")
@click.argument("source", shell_complete=completion.sources)
@input_shape
@common
@tables.wide_option
def inspect(source: str, shapes: tuple[str, ...], as_json: bool) -> None:
    """List the seams of SOURCE: where a compressor can go, and which signals it can read there.

    SOURCE is what `tokexport model` takes (a built-in model, a checkpoint folder, an ONNX file, or
    package.module:callable), or a bundle.
    """
    from ...graph_passes.seams.find import describe

    graph, between = _opened(source, sizes(shapes))
    told = describe(graph)
    render.result({**told, "language_model": between} if between else told, as_json, inspected)


def _opened(source: str, shapes: dict[str, list[int]]) -> tuple[ir.Model, str]:
    """The graph of an ONNX file as it is, of a bundle that of its encoder, of any other source its exported encoder.

    And the seams in the language model of such a source.
    """
    path = Path(source).expanduser()
    if (path / "manifest.json").is_file():
        path /= "encoder.onnx"
    if path.suffix.lower() == ".onnx":
        from ...graph_passes.ir_tools.input_shapes import fix_inputs, raise_opset
        from ...graph_passes.ir_tools.model_io import load_model

        model, _ = raise_opset(load_model(path))
        fix_inputs(model, shapes)
        return model, ""
    from ..bundling import graphs
    from ..opening import open_source

    with progress() as step:
        step("opening the model")
        opened = open_source(source, input_shapes=shapes)
        step("exporting the encoder")
        return graphs.encoder(opened, "fp32")[0], opened.between_layers


def inspected(data: dict[str, Any]) -> None:
    """Print the result of `tokexport inspect`."""
    for key, value in data.items():
        if key not in ("seams", "language_model") and value:
            tables.wrapped(f"{key}: ", render.flat(value))
    if data["seams"]:
        more = {*data["seams"][0]} - {"tokens", "dim", "grid", "signals"}
        rows = tables.Table(*data["seams"][0], keys={"tensor"}, more=more)
        closed: dict[str, list[str]] = {}
        for seam in data["seams"]:
            rows.add_row(*(render.flat(value) for value in seam.values()))
            if not seam["valid"]:
                closed.setdefault(seam["why"], []).append(seam["seam"])
        tables.show(rows)
        for why, names in closed.items():
            tables.wrapped("note: ", f"no compressor can go to {', '.join(names)}: {why}{_rebuilt(why, names)}")
    if between := data.get("language_model"):
        tables.wrapped("seams in the language model: ", between)


def _rebuilt(why: str, names: list[str]) -> str:
    """Which of the closed seams `--rebuild` opens, where it does: all layers but the last."""
    layers = [name for name in names if name.startswith("encoder_layer:")]
    return f"; with --rebuild one can go to {', '.join(layers[:-1])}" if "by position" in why and layers[1:] else ""
