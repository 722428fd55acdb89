"""Prove a bundle again, on this machine, from the probes it carries: hashes, then every part. PyTorch is not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BundleError, UnprovableError
from ...graph_passes.compressors.blocks.texts import TEXT
from ...graph_passes.ir_tools.model_io import load_model
from ...runtimes.bundle.reader import Bundle, open_bundle, verify_hashes
from ...runtimes.bundle.recovery import recover
from ...runtimes.load import check_options
from ...runtimes.ort.graph import ort_runner
from ..progress import Progress, log
from . import gate
from . import probes as probe_file
from .agreement import check_agreement
from .generation import LANGUAGE, check_answers
from .metrics import Check
from .parity import Runner, check
from .probes import Probe

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...runtimes.bundle.manifest import Role, Variant
    from ...runtimes.tensorrt.engine_graph import EngineRunner

    _Prove = Callable[[Bundle, Variant, list[Probe], Progress], tuple[list[Check], list[str]]]


def verify(
    path: Path | str,
    *,
    runtime: str = "ort",
    provider: str | None = None,
    variant: str | None = None,
    min_accuracy: float | None = None,
    junit: Path | str | None = None,
    step: Progress = log,
) -> dict[str, Any]:
    """Check a bundle. An interrupted replacement of it that this user began on this machine is finished first.

    Args:
        path: the bundle.
        runtime: ``ort``, or ``tensorrt`` for the engines that `tokexport build` put into the bundle.
        provider: of ONNX Runtime: ``cpu``, ``cuda`` or ``tensorrt``; None: the CPU. The gates are the same for each.
        variant: the one to prove; None: all of them.
        min_accuracy: least share of right answers, 0..1, that the export must have recorded for each.
        junit: JUnit XML file to write, also where this ends in an error; see `junit.Report`.
        step: called with the name of each step; by default the logger ``tokexport`` gets them.

    Returns:
        ``{"bundle", "runtime", "provider", "files", "variant", "checks", "notes", "accuracy", "min_accuracy", "failed",
        "ok", "further"}``; ``failed`` is the gate that the export failed, or empty; ``accuracy`` is what the export
        measured on the task of a built-in model, or None; ``further`` holds ``{"variant", "checks", "notes",
        "accuracy"}`` of each proved variant after the first; ``ok`` covers every check and accuracy, and the gates of
        the export.

    Raises:
        RequestError: no such variant; `min_accuracy` is outside 0..1, or the bundle records no accuracy; `junit` cannot
            be written.
        BundleError: a file is missing, changed or damaged, or the bundle was exported without its proof.
        MissingError: picks differ from the stored reference and PyTorch, which could judge them, is not installed; or
            `junit` is asked for without the package that writes it; or there are no engines, or no GPU, or no provider.
        UnprovableError: the bundle is bf16, which ONNX Runtime cannot run here.
    """
    gate.check_least(min_accuracy)
    check_options(runtime, provider=provider)
    prove = _with_tensorrt if runtime == "tensorrt" else partial(_with_ort, provider=provider or "cpu")
    result = {"bundle": str(path), "runtime": runtime, "provider": (provider or "cpu") if runtime == "ort" else None}
    if junit is None:
        return result | _verify(Path(path), prove, variant, min_accuracy, step)
    from .junit import Report

    with Report(Path(junit), Path(path), step) as report:
        report.result = result | _verify(Path(path), prove, variant, min_accuracy, report.step)
    return report.result


def _verify(
    path: Path, prove: _Prove, variant: str | None, min_accuracy: float | None, step: Progress
) -> dict[str, Any]:
    # A step is "suite: what is done now": `junit.Report` counts its time, or the error that ends it, to the suite.
    step("files: manifest.json")
    recover(path)
    bundle = open_bundle(path)
    gate.check_seal(bundle)
    chosen = bundle.manifest.variants if variant is None else [bundle.variant(variant)]
    if min_accuracy is not None or gate.has_accuracy(bundle.manifest, (one.name for one in chosen)):
        step("accuracy: as the export recorded it")
    measured = {one.name: gate.recorded(bundle, one.name, needed=min_accuracy is not None) for one in chosen}
    files = verify_hashes(bundle, lambda name: step(f"files: {name}"))
    step("compressor: reading the probes")
    probes = probe_file.of_bundle(bundle)
    results: list[dict[str, Any]] = []
    for one in chosen:
        suite = _suite(one.name, step) if results else step
        mine = [probe for probe in probes if (probe.variant or bundle.variant().name) == one.name]
        _check_covered(bundle, one, mine)
        checks, notes = prove(bundle, one, mine, suite)
        listed = [found.to_json() for found in checks]
        results.append({"variant": one.name, "checks": listed, "notes": notes, "accuracy": measured[one.name]})
    # What was proved is what was hashed.
    bundle.check_held(list(bundle.manifest.files))
    failed = gate.failed(bundle.manifest)
    return {
        "files": files,
        **results[0],
        "min_accuracy": min_accuracy,
        "failed": failed,
        "ok": not failed
        and all(check["ok"] for result in results for check in result["checks"])
        and not any(gate.shortfall(result["accuracy"], min_accuracy) for result in results),
        "further": results[1:],
    }


def _check_covered(bundle: Bundle, variant: Variant, probes: list[Probe]) -> None:
    """Refuse a proof that says nothing about one of the graphs: "proved" is said of all of them."""
    covered = {probe.role for probe in probes if probe.part not in probe_file.WHOLE}
    if variant.llm_weights and any(probe.part == probe_file.AGREEMENT for probe in probes):
        covered |= {*LANGUAGE}
    missing = variant.graphs.keys() - covered
    if missing:
        raise BundleError(
            f"{probe_file.FILE} holds nothing that proves {sorted(missing)[0]} of {variant.name}",
            where=str(bundle.path),
            fix="Export the bundle again.",
        )


def _suite(variant: str, step: Progress) -> Progress:
    """Steps of a further variant, in suites of its own."""
    return lambda text: step(f"{variant} {text}")


def _with_ort(
    bundle: Bundle, variant: Variant, probes: list[Probe], step: Progress, provider: str
) -> tuple[list[Check], list[str]]:
    precision = bundle.graph("encoder", variant.name).precision
    if precision == "bf16":
        why = (
            "'s CPU has no bfloat16 kernels" if provider == "cpu" else " takes numpy's arrays, which are never bfloat16"
        )
        raise UnprovableError(
            f"ONNX Runtime{why}, so this bundle cannot be proved here",
            where=str(bundle.path),
            fix="Export it in fp16 or fp32, or prove its engines: tokexport verify BUNDLE --runtime tensorrt.",
        )
    models = {role: _model(bundle, role, variant.name) for role in variant.graphs}
    notes = [*gate.of_export(bundle.manifest, variant.name).get("notes", []), *_not_compared(bundle, variant, probes)]
    run = partial(ort_runner, provider=provider)
    if provider != "cpu":
        notes.append(f"proved by ONNX Runtime's provider {provider}, at the tolerances of {precision} that the CPU has")
    checks = check(probes, models, run, precision, step)
    return checks + _whole(probes, variant, models, run, step), notes


def _whole(
    probes: list[Probe], variant: Variant, models: Mapping[Role, ir.Model], runner: Runner, step: Progress
) -> list[Check]:
    """What the language graphs say, all of them together."""
    # Products of int8 are rounded otherwise by every kind of CPU, and by a GPU.
    precision = "bf16" if variant.llm_weights else variant.graphs["encoder"].precision
    checks = check_answers(probes, variant, models, runner, precision, step)
    return checks + check_agreement(probes, variant, models, runner, step)


def _not_compared(bundle: Bundle, variant: Variant, probes: list[Probe]) -> list[str]:
    """That the export compared what the whole model says, where the proof holds no answers to compare again."""
    exported = gate.of_export(bundle.manifest, variant.name).get("checks", [])
    compared = any(one.get("part") == probe_file.ANSWERS for one in exported)
    if not compared or any(probe.part == probe_file.ANSWERS for probe in probes):
        return []
    return [
        f"{probe_file.ANSWERS}: what the whole model says was compared at the export and not again: {probe_file.FILE} "
        "holds no answers; a bundle that is exported again has them"
    ]


def _model(bundle: Bundle, role: str, variant: str) -> ir.Model:
    with bundle.reading(role, variant=variant) as path:
        return load_model(path)


def _with_tensorrt(
    bundle: Bundle, variant: Variant, probes: list[Probe], step: Progress
) -> tuple[list[Check], list[str]]:
    from ...runtimes.tensorrt.engine_graph import engine_runner

    with engine_runner(bundle, variant.name) as runner:
        precision = bundle.graph("encoder", variant.name).precision
        checks = check(probes, runner.models, runner, precision, step)
        checks += _whole(probes, variant, runner.models, runner, step)
        made = f"{runner.parts} parts of graphs were built as engines of their own; whole graphs ran in the bundle's"
        notes = [f"{runner.session.title}: {made}", *_end_to_end(runner, probes), *runner.session.notes()]
        notes += _not_compared(bundle, variant, probes)
    return checks, notes


def _end_to_end(runner: EngineRunner, probes: list[Probe]) -> list[str]:
    """The picks of the bundle's own encoder engine against PyTorch, flips included: reported, not judged."""
    samples = [probe.inputs for probe in probes if probe.part == "head"]
    if not samples:
        return ["the encoder's engine was not run as a whole: the proof holds no input of the whole encoder"]
    encode = runner(runner.models["encoder"])
    kept = runner.session.variant.graphs["encoder"].outputs["kept_indices"].name
    # With several compressors, the graph's output is their composed kept_indices.
    picks = [probe for probe in probes if kept in probe.expected and probe.role == "encoder"]
    shares = []
    for sample, pick in zip(samples, picks, strict=True):
        # The text is an input of the encoder that goes to the compressor, not to the head.
        text = {TEXT: pick.inputs[TEXT]} if TEXT in pick.inputs else {}
        for ours, theirs in zip(encode({**sample, **text})[kept], pick.expected[kept]):
            shares.append(len({*map(int, ours)} & {*map(int, theirs)}) / len(theirs))
    return [f"end to end the encoder's engine keeps {sum(shares) / len(shares):.1%} of the tokens that PyTorch keeps"]
