"""`tokexport export-to`: a variant of a bundle as the folder of another runtime."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ...graph_passes.ir_tools.model_io import load_model
from ...runtimes.bundle.reader import open_bundle
from ...runtimes.bundle.writer import BundleWriter
from ..progress import Progress
from . import carried, ort_genai, transformers_js

TARGETS = {"ort-genai": ort_genai.write, "transformers-js": transformers_js.write}


def export_to(
    bundle: Path, target: str, out: Path, *, variant: str | None = None, force: bool = False, step: Progress
) -> dict[str, Any]:
    """Write a folder that another runtime reads.

    Args:
        bundle: a folder with language graphs.
        target: one of `TARGETS`.
        out: a new or empty folder.
        variant: name of one of its variants; None: the first.
        force: whether other files in `out` may be deleted.
        step: called with the name of each stage.

    Returns:
        A JSON object: target, bundle, variant, out, files with their sizes, notes.

    Raises:
        RequestError: the target does not carry what the variant needs; nothing is written.
        BundleError: the bundle cannot be read, or the folder cannot be written.
    """
    opened = open_bundle(bundle)
    chosen = opened.variant(variant)
    carried.check(opened, chosen, target)
    with contextlib.ExitStack() as held, BundleWriter(out, force, sources=[bundle]) as writer:
        models: dict[str, ir.Model] = {}
        for role in chosen.graphs:
            step(f"reading {role}")
            models[role] = load_model(held.enter_context(opened.reading(role, variant=chosen.name)))
        step(f"writing what {target} reads")
        notes = TARGETS[target](writer, opened, chosen, models)
        files = writer.commit_files()
    return {
        "target": target,
        "bundle": str(bundle),
        "variant": chosen.name,
        "out": str(out),
        "files": {name: record.size for name, record in files.items()},
        "notes": notes,
    }
