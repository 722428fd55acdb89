"""`export()`: the whole way from a model to a proved bundle, as one list of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GateError, MissingError, RequestError
from ..graph_passes.budget import check_budget
from ..graph_passes.compressors import make
from . import gate
from .render import Step

if TYPE_CHECKING:
    from ..runtimes.bundle import Precision
    from .source import Parts

QUESTIONS = 512


@dataclass
class Exported:
    """What `export` hands back.

    Attributes:
        bundle: the folder.
        compression: one record for each compressor, as in the manifest.
        proof: the checks by part, or None with ``verify=False``.
        drift: end to end against PyTorch, where there is a module.
        device: what it was fitted to, where one was named.
        accuracy: on a built-in model's task.
        notes: what a reader must know: fp32 islands, what could not be run here.
    """

    bundle: Path
    source: str
    precision: str
    compression: list[dict[str, Any]]
    proof: dict[str, Any] | None = None
    drift: dict[str, float] | None = None
    device: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**vars(self), "bundle": str(self.bundle)}


def export(
    source: str | None = None,
    out: Path | str | None = None,
    *,
    method: str = "apet",
    ratio: str | float | Fraction | None = None,
    keep: int | None = None,
    seam: str = "auto",
    params: Mapping[str, Any] | None = None,
    precision: Precision | None = None,
    device: str | None = None,
    parts: Parts = "all",
    size_bias: str = "auto",
    verify: bool = True,
    force: bool = False,
    min_accuracy: float | None = None,
    step: Step = lambda text: None,
) -> Exported:
    """Compress a model, prove the result against PyTorch, and write a bundle: what `tokexport model` does.

    Args:
        source: built-in name (None: tiny-vlm), checkpoint folder, ONNX file, or ``package.module:callable``.
        out: bundle folder; None: ``./<source>-<method>-<ratio>``.
        method: compressor.
        ratio: share of tokens removed, exact.
        keep: tokens kept, instead of `ratio`.
        seam: where; ``auto`` takes the place of the method's paper.
        params: of the method.
        precision: fp32, fp16 or bf16, as types in the graph; None: fp32, or what is recommended for `device`.
        device: the device it is for, ``NAME`` or ``NAME@TENSORRT`` (`devices.profiles.target`): what it cannot run is
            refused, and what was chosen for it is in the notes and in the manifest.
        parts: ``encoder`` leaves the language graphs out.
        size_bias: ``auto`` gives merged tokens their weight wherever we own the graph behind the seam.
        verify: prove every part; a failed proof is a `GateError`.
        force: replace a non-empty folder that is not a bundle.
        min_accuracy: least share of right answers, for built-in models.
        step: called with the name of each step.

    Raises:
        RequestError, GraphError, BundleError: exit 2, nothing written.
        MissingError: exit 3.
        GateError: exit 1; the result is in ``<out>.failed``.
    """
    from ..runtimes.writer import BundleWriter, check_target
    from . import accuracy, device_fit, graphs, prove
    from .report import page
    from .sources import open_source

    compressor = make(method, params)
    budget = _budget(ratio, keep)
    goal = device_fit.target(device)
    precision, chosen = device_fit.precision(goal, precision)
    step("opening the model")
    opened = open_source(source, parts=parts).prepared(compressor)
    if min_accuracy is not None and not (opened.has_task and parts == "all" and verify and precision != "bf16"):
        raise RequestError(
            f"--min-accuracy needs a model with questions, all its graphs, and the proof (asked: {opened.name})",
            fix="Use it with a built-in model, --parts all, in fp32 or fp16, without --no-verify.",
        )
    gate.check_least(min_accuracy)
    if min_accuracy is not None:
        # What the questions need is missed now, not after the export.
        opened.questions(1, accuracy.SEED)
    target = Path(out) if out is not None else Path(f"{opened.name}-{method}-{budget.replace('/', '_')}")
    check_target(target, force=force)

    plan = graphs.Plan(opened, compressor, ratio, keep, seam, parts, size_bias)
    built = graphs.build(plan, precision, step)
    fitted, found = device_fit.fit(goal, built.models)
    built.notes[:0] = [*chosen, *found]
    # ONNX Runtime's CPU cannot run bfloat16: what can be proved here are the same graphs before their types changed.
    proven = graphs.build(plan, "fp32", step) if precision == "bf16" and verify else built
    step("writing the bundle")
    with BundleWriter(target, force=force) as writer:
        manifest = graphs.write(writer, plan, built, budget, precision)
        manifest.variants[0].device = fitted
        record = manifest.variants[0].compression[0]
        result = Exported(target, opened.name, precision, [record.model_dump()], notes=built.notes)
        result.device = fitted.model_dump() if fitted else None
        encoded: list[prove.Encoded] = []
        if verify:
            step("proving every part against PyTorch")
            result.proof, result.drift, encoded = prove.prove(writer, plan, proven, precision, result.notes)
            manifest.parity |= {"checks": result.proof["checks"], "notes": result.notes}
        if verify and opened.has_task and built.language and precision != "bf16":
            step(f"answering {QUESTIONS} questions")
            writer.finish(manifest)
            try:
                result.accuracy = accuracy.measure(plan, proven, writer.folder, precision, QUESTIONS)
                manifest.parity["accuracy"] = result.accuracy
            except MissingError as missing:
                result.notes.append(f"accuracy was not measured: {missing}")
        failure = _failure(result, min_accuracy)
        step("writing the report")
        page.add(writer, plan, proven, manifest, result, encoded, failure)
        step("putting the bundle in place")
        if failure:
            failed = writer.commit_failed(manifest)
            raise GateError(failure, where=f"kept for inspection in {failed}", fix=_WHAT_TO_TRY)
        writer.commit(manifest)
    return result


_WHAT_TO_TRY = (
    "Do not ship it. In fp16 try --precision fp32; `tokexport inspect` shows other seams; a smaller --ratio or "
    "kcenter_merge loses less."
)


def _budget(ratio: str | float | Fraction | None, keep: int | None) -> str:
    """The budget as text, checked as far as it can be before N is known."""
    check_budget(ratio=ratio, keep=keep)
    return f"keep{keep}" if ratio is None else str(ratio).strip()


def _failure(result: Exported, min_accuracy: float | None) -> str:
    """What gate failed, or nothing."""
    bad = [check for check in result.proof["checks"] if not check["ok"]] if result.proof else []
    if bad:
        first = bad[0]
        return (
            f"{len(bad)} of {len(result.proof['checks'] if result.proof else [])} checks failed; the first: "
            f"{first['part']}, tensor {first['tensor']}: cosine {first['cosine']:.6f}, norm ratio "
            f"{first['norm_ratio']:.5f}; {first['detail']}"
        )
    return gate.shortfall(result.accuracy, min_accuracy)
