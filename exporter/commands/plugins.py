"""`tokexport plugins`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ...errors import MissingError
from .. import render
from ..progress import progress
from .shared import OUT, common


@click.group(short_help="Build, find and check the TensorRT plugins.")
def plugins() -> None:
    """Build, find and check the TensorRT plugins of the compressors.

    To use a library that was built elsewhere, set TOKEXPORT_PLUGINS to its path.
    """


@plugins.command()
@click.option(
    "--architectures",
    default="native",
    show_default=True,
    metavar="LIST",
    help="native: this machine's GPU; all: every device we know; or compute capabilities: 87, or '87;120'.",
)
@click.option("--include", type=OUT, metavar="FOLDER", help="Where NvInfer.h is, if not in the usual places.")
@click.option(
    "--kernels-only", is_flag=True, help="Build only the CUDA kernels, for the plugins in Python; needs no NvInfer.h."
)
@common
def build(architectures: str, include: Path | None, kernels_only: bool, as_json: bool) -> None:
    """Build the library on this machine: needs cmake, a C++ compiler, nvcc, and the headers of its TensorRT.

    A library that was built from the same sources, compilers and headers before is reused.
    """
    from ...plugins import library

    with progress() as step:
        made = library.build(architectures=architectures, include=include, kernels_only=kernels_only, step=step)
    render.result({"library": str(made), "plugins": library.creators(made)}, as_json, built)


@plugins.command()
@common
def path(as_json: bool) -> None:
    """Print the path of the library, for example for `trtexec --staticPlugins`; exit code 3 where there is none."""
    from ...plugins import library

    found = library.find()
    if found is None:
        kernels = library.find(kernels_only=True)
        raise MissingError(
            "there is no plugin library on this machine" + (", only one with the kernels" if kernels else ""),
            where=str(kernels or ""),
            fix=f"Run: {library.COMMAND}",
        )
    render.result({"library": str(found)}, as_json, lambda data: click.echo(data["library"]))


@plugins.command()
@click.argument("model", metavar="BUNDLE|MODEL.onnx", type=OUT)
@common
def check(model: Path, as_json: bool) -> None:
    """Say which plugins a bundle or an ONNX file needs, and whether the library here has them; if not, exit code 3."""
    from ..doctor.plugin_check import check as run

    result = run(model)
    render.result(result, as_json, checked)
    if not result["ok"]:
        sys.exit(MissingError.exit_code)


def built(data: dict[str, Any]) -> None:
    """Print the result of `tokexport plugins build`."""
    click.echo(data["library"])
    click.echo(", ".join(data["plugins"]) or "the kernels, without plugins")


def checked(data: dict[str, Any]) -> None:
    """Print the result of `tokexport plugins check`."""
    from ...plugins.library import cure

    for file, wanted in data["needs"].items():
        click.echo(f"{file}: {'needs ' + ', '.join(wanted) if wanted else 'needs no plugin'}")
    if not data["needs"]:
        click.echo("no graph has a plugin form")
    click.echo(f"library: {data['library'] or 'none'}")
    if data["has"]:
        click.echo(f"it has {', '.join(data['has'])}")
    if data["missing"]:
        click.echo(f"MISSING: {', '.join(data['missing'])}. {cure()}")
