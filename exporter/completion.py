"""What the shell completes: names of methods, recipes, devices, models and seams, and keys of --set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

_PLACES = ("encoder_output", "projector_input", "projector_output")
_SEAMS = ("auto", *_PLACES, "encoder_layer:", "encoder_layer:*", "encoder_attention:", "decoder_layer:", "tensor:")


def _starting(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def methods(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of compressors."""
    from ..graph_passes.compressors import names

    return _starting(names(), incomplete)


def recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of recipes, and files."""
    from ..graph_passes.recipes import names

    return [*_starting(names(), incomplete), CompletionItem(incomplete, type="file")]


def devices(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of devices, and files."""
    from ..devices.profiles import names

    return [*_starting(names(), incomplete), CompletionItem(incomplete, type="file")]


def sources(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of built-in models, files and folders."""
    from .opening import NAMES

    return [*_starting(NAMES, incomplete), CompletionItem(incomplete, type="file")]


def settings(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """``KEY=`` of the method's parameters."""
    from ..errors import RequestError
    from ..graph_passes.compressors import make, parameters

    try:
        keys = parameters(make(context.params.get("method") or ""))
    except RequestError:
        return []
    return _starting((f"{key}=" for key in keys), incomplete)


def seams(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The seams of the ONNX file that is given; for other models the usual ones."""
    # Where the option's own value is still missing, click has not come to the arguments yet.
    words = [context.params.get("source") or "", *context.args]
    source = Path(next((word for word in words if word.lower().endswith(".onnx")), "")).expanduser()
    if source.suffix.lower() != ".onnx" or not source.is_file():
        return _starting(_SEAMS, incomplete)
    from ..errors import TokexportError
    from ..graph_passes.ir_tools.model_io import load_model
    from ..graph_passes.seams.find import find_seams

    try:
        found = [seam.name for seam in find_seams(load_model(source)) if seam.valid]
    except TokexportError:
        found = []
    return _starting(["auto", *found], incomplete)
