"""`export()`: the whole way from a model to a proved bundle, as one list of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import GateError, RequestError
from ..graph_passes.budget import parse_ratio, tokens_kept
from ..graph_passes.compressors import make
from .render import Step

QUESTIONS = 256


@dataclass
class Exported:
    """What `export` hands back.

    Attributes:
        bundle: the folder.
        compression: one record for each compressor, as in the manifest.
        proof: the checks by part, or None with ``verify=False``.
        drift: end to end against PyTorch, where there is a module.
        accuracy: on a built-in model's task.
        notes: what a reader must know: fp32 islands, what could not be run here.
    """

    bundle: Path
    source: str
    precision: str
    compression: list[dict[str, Any]]
    proof: dict[str, Any] | None = None
    drift: dict[str, float] | None = None
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
    precision: str = "fp32",
    parts: str = "all",
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
        precision: fp32, fp16 or bf16, as types in the graph.
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
    from . import accuracy, graphs, prove
    from .sources import open_source

    compressor = make(method, params)
    budget = _budget(ratio, keep)
    step("opening the model")
    opened = open_source(source, parts=parts)
    if min_accuracy is not None and not (opened.has_task and parts == "all" and verify):
        raise RequestError(
            f"--min-accuracy needs a model with questions, all its graphs, and the proof (asked: {opened.name})",
            fix="Leave it out, or use it with a built-in model, --parts all, and without --no-verify.",
        )
    target = Path(out) if out is not None else Path(f"{opened.name}-{method}-{budget.replace('/', '_')}")
    check_target(target, force=force)

    step("exporting the encoder")
    encoder = graphs.encoder(opened, precision)
    step(f"inserting {method}")
    inserted = graphs.compress(opened, encoder, compressor, ratio=ratio, keep=keep, seam=seam, size_bias=size_bias)
    step("exporting the language graphs")
    language = opened.language(inserted.keep) if parts == "all" else []
    models = {"encoder": encoder, **{graph.role: graphs.language(graph, precision) for graph in language}}

    step("writing the bundle")
    with BundleWriter(target, force=force) as writer:
        manifest = graphs.write(writer, opened, models, inserted, budget, precision, size_bias)
        record = manifest.variants[0].compression[0]
        result = Exported(target, opened.name, precision, [record.model_dump()], notes=list(encoder.meta["notes"]))
        if verify:
            step("proving every part against PyTorch")
            result.proof, result.drift = prove.prove(
                writer, opened, models, language, inserted, compressor, precision, result.notes
            )
            manifest.parity["checks"] = result.proof["checks"]
        if verify and opened.has_task and language:
            step(f"answering {QUESTIONS} questions")
            writer.finish(manifest)
            result.accuracy = accuracy.measure(opened, writer.folder, QUESTIONS)
            manifest.parity["accuracy"] = result.accuracy
        step("putting the bundle in place")
        failure = _failure(result, min_accuracy)
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
    if ratio is None or keep is not None:
        tokens_kept(keep or 1, ratio=ratio, keep=keep)
        return f"keep{keep}"
    parse_ratio(ratio)
    return str(ratio).strip()


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
    if min_accuracy is not None and result.accuracy and result.accuracy["compressed"] < min_accuracy:
        return f"accuracy {result.accuracy['compressed']:.4f} is below --min-accuracy {min_accuracy}"
    return ""
