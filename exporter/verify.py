"""Prove a bundle again, on this machine, from the probes it carries: hashes, then every part. PyTorch is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MissingError
from ..graph_passes.model_io import load_model
from ..runtimes.ort_graph import ort_runner
from ..runtimes.reader import open_bundle, verify_hashes
from . import probes as probe_file
from .parity import check
from .render import Step


def verify(path: Path | str, *, runtime: str = "ort", step: Step = lambda text: None) -> dict[str, Any]:
    """Check a bundle.

    Args:
        path: the bundle.
        runtime: ``ort``.
        step: called with the name of each step.

    Returns:
        ``{"bundle", "runtime", "files", "checks", "notes", "ok"}``.

    Raises:
        BundleError: a file is missing, changed or damaged, or the bundle was exported without its proof.
        MissingError: picks differ from the stored reference and PyTorch, which could judge them, is not installed; or
            the bundle is bf16, which ONNX Runtime's CPU cannot run.
    """
    step("checking hashes")
    bundle = open_bundle(path)
    files = verify_hashes(bundle)
    step("proving every part")
    variant = bundle.variant()
    precision = variant.graphs["encoder"].precision
    if precision == "bf16":
        raise MissingError(
            "ONNX Runtime's CPU has no bfloat16 kernels, so this bundle cannot be proved here",
            where=str(path),
            fix="Export it in fp16 or fp32, or verify it on a runtime that computes in bfloat16.",
        )
    probes = probe_file.load(bundle.path / probe_file.FILE)
    models = {role: load_model(bundle.model_path(role)) for role in variant.graphs}
    checks = check(probes, models, ort_runner, precision)
    return {
        "bundle": str(path),
        "runtime": runtime,
        "files": files,
        "checks": [found.to_json() for found in checks],
        "notes": bundle.manifest.parity.get("notes", []),
        "ok": all(found.ok for found in checks),
    }
