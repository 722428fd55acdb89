"""Prove a bundle again, on this machine, from the probes it carries: hashes, then every part. PyTorch is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UnprovableError
from ..graph_passes.model_io import load_model
from ..runtimes.ort_graph import ort_runner
from ..runtimes.reader import open_bundle, verify_hashes
from . import gate
from . import probes as probe_file
from .parity import check
from .render import Step


def verify(
    path: Path | str,
    *,
    runtime: str = "ort",
    min_accuracy: float | None = None,
    junit: Path | str | None = None,
    step: Step = lambda text: None,
) -> dict[str, Any]:
    """Check a bundle.

    Args:
        path: the bundle.
        runtime: ``ort``.
        min_accuracy: least share of right answers, 0..1, that the export must have recorded in the bundle.
        junit: JUnit XML file to write, also where this ends in an error; see `junit.Report`.
        step: called with the name of each step.

    Returns:
        ``{"bundle", "runtime", "files", "checks", "notes", "accuracy", "min_accuracy", "ok"}``;
        ``accuracy`` is what the export measured on the task of a built-in model, or None; ``ok`` is about every check
        and the accuracy.

    Raises:
        RequestError: `min_accuracy` is outside 0..1, or the bundle records no accuracy; `junit` cannot be written.
        BundleError: a file is missing, changed or damaged, or the bundle was exported without its proof.
        MissingError: picks differ from the stored reference and PyTorch, which could judge them, is not installed; or
            `junit` is asked for without the package that writes it.
        UnprovableError: the bundle is bf16, which ONNX Runtime's CPU cannot run.
    """
    gate.check_least(min_accuracy)
    if junit is None:
        return _verify(Path(path), runtime, min_accuracy, step)
    from .junit import Report

    with Report(Path(junit), Path(path), step) as report:
        report.result = _verify(Path(path), runtime, min_accuracy, report.step)
    return report.result


def _verify(path: Path, runtime: str, min_accuracy: float | None, step: Step) -> dict[str, Any]:
    # A step is "suite: what is done now": `junit.Report` files its time, or the error that ends it, under the suite.
    step("files: manifest.json")
    bundle = open_bundle(path)
    step("accuracy: as the export recorded it")
    measured = gate.recorded(bundle, needed=min_accuracy is not None)
    files = verify_hashes(bundle, lambda name: step(f"files: {name}"))
    variant = bundle.variant()
    precision = variant.graphs["encoder"].precision
    step("compressor: reading the probes")
    if precision == "bf16":
        raise UnprovableError(
            "ONNX Runtime's CPU has no bfloat16 kernels, so this bundle cannot be proved here",
            where=str(path),
            fix="Export it in fp16 or fp32, or verify it on a runtime that computes in bfloat16.",
        )
    probes = probe_file.load(bundle.path / probe_file.FILE)
    models = {role: load_model(bundle.model_path(role)) for role in variant.graphs}
    checks = check(probes, models, ort_runner, precision, step)
    return {
        "bundle": str(path),
        "runtime": runtime,
        "files": files,
        "checks": [found.to_json() for found in checks],
        "notes": bundle.manifest.parity.get("notes", []),
        "accuracy": measured,
        "min_accuracy": min_accuracy,
        "ok": all(found.ok for found in checks) and not gate.shortfall(measured, min_accuracy),
    }
