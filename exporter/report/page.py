"""Renders the page, and adds it to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .figures import figure
from .look import collect
from .pixels import pixels_of
from .stages import in_proof, inside, stages
from .view import View, view

if TYPE_CHECKING:
    import numpy as np

    from ...runtimes.bundle.manifest import Manifest
    from ...runtimes.bundle.writer import BundleWriter
    from ..bundling.graphs import Built, Plan
    from ..proof.prove import Proved
    from ..result import Exported

FILE = "report.html"


def add(
    writer: BundleWriter,
    plan: Plan,
    built: Built,
    manifest: Manifest,
    result: Exported,
    proved: Proved | None,
    failure: str,
    own: Sequence[dict[str, np.ndarray]] = (),
) -> None:
    """Write report.html into a bundle that is being made. Without jinja2, which renders it, only a note is added.

    Args:
        writer: of the bundle.
        plan: of the export.
        built: the graphs, or in bf16 their fp32 reference build, which were proved.
        manifest: of the bundle; its `files` are not read.
        result: of the export.
        proved: the proof; None with --no-verify.
        failure: the gate that failed; empty where none did.
        own: the user's inputs, where they gave some.

    Raises:
        BundleError: the disk is full.
    """
    if find_spec("jinja2") is None:
        result.notes.append(f'{FILE} was not written: it needs jinja2 (pip install "tokexport[export]")')
        return
    runs, asks = result.precision != "bf16", result.accuracy is not None
    encoded, variant = proved.encoded if proved else [], manifest.variants[0]
    looks, why = collect(plan, built, writer.folder, encoded, runs=runs, asks=asks, own=own)
    shape, preprocess = variant.grid, manifest.preprocess_of(variant)
    passed = stages(built.models["encoder"], built.inserted, looks)
    if proved and not own:
        # The pictures are of the proof's own inputs, which were asked about there.
        for look, each, chosen in zip(looks, passed, in_proof(proved.probes, len(encoded))):
            each += inside(variant, chosen, look.picks, len(each)) if chosen else []
    figures = [
        figure(number, look, pixels_of(look.input, preprocess, shape), shape, each)
        for number, (look, each) in enumerate(zip(looks, passed))
    ]
    content = view(plan, manifest, result, figures, failure=failure, no_figures=why)
    writer.add_file(FILE, html(content).encode())


def html(content: View) -> str:
    """The page as text: one file, no script, nothing fetched."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(view=content)
