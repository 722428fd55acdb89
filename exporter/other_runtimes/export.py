"""`tokexport export-to`: a variant of a bundle as the folder of another runtime."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ...graph_passes.ir_tools.model_io import load_model
from ...runtimes.bundle.manifest import PreprocessRecord
from ...runtimes.bundle.reader import open_bundle
from ...runtimes.bundle.writer import BundleWriter
from ..progress import Progress
from . import carried, llm_ort_genai, llm_transformers_js, ort_genai, transformers_js
from .own_llm import Tower, merges

TARGETS = {"ort-genai": ort_genai.write, "transformers-js": transformers_js.write}
BESIDE = {"ort-genai": llm_ort_genai.write, "transformers-js": llm_transformers_js.write}


def export_to(
    bundle: Path,
    target: str,
    out: Path,
    *,
    variant: str | None = None,
    llm: Path | None = None,
    size_bias: str = "auto",
    force: bool = False,
    step: Progress,
) -> dict[str, Any]:
    """Write a folder that another runtime reads.

    Args:
        bundle: a folder with language graphs, or beside `llm` with an encoder.
        target: one of `TARGETS`.
        out: a new or empty folder.
        variant: name of one of its variants; None: the first.
        llm: the folder of a language model that somebody else exported for this runtime, which is written with the
            bundle's encoder; None: the bundle's own.
        size_bias: ``off`` tells `llm` no log(size).
        force: whether other files in `out` may be deleted.
        step: called with the name of each stage.

    Returns:
        A JSON object: target, bundle, variant, out, files with their sizes, notes.

    Raises:
        RequestError: the target does not carry what the variant needs; nothing is written.
        GraphError, GateError: `llm` cannot be told what merged tokens need, see `tokexport attach`.
        BundleError: the bundle cannot be read, or the folder cannot be written.
    """
    opened = open_bundle(bundle)
    chosen = opened.variant(variant)
    if llm is None:
        carried.check(opened, chosen, target)
    else:
        carried.check_encoder(opened, chosen, target, llm)
    sources = [bundle] if llm is None else [bundle, llm]
    with contextlib.ExitStack() as held, BundleWriter(out, force, sources=sources) as writer:
        models: dict[str, ir.Model] = {}
        for role in chosen.graphs if llm is None else ("encoder",):
            step(f"reading {role}")
            models[role] = load_model(held.enter_context(opened.reading(role, variant=chosen.name)))
        step(f"writing what {target} reads")
        if llm is None:
            notes = TARGETS[target](writer, opened, chosen, models)
        else:
            picture = opened.manifest.preprocess_of(chosen)
            seen = picture if isinstance(picture, PreprocessRecord) else None
            tower = Tower(models["encoder"], chosen, seen, size_bias == "auto" and merges(chosen))
            notes = BESIDE[target](writer, tower, llm, step)
            if chosen.generation is not None and chosen.generation.by_position:
                notes = [*notes, "the bundle's own prefill reads merged tokens by position; this one is told log(size)"]
        files = writer.commit_files()
    return {
        "target": target,
        "bundle": str(bundle),
        "variant": chosen.name,
        "out": str(out),
        "files": {name: record.size for name, record in files.items()},
        "notes": notes,
    }
