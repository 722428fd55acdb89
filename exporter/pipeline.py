"""`export()`: the whole way from a model to a proved bundle, as one list of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GateError, MissingError, RequestError
from ..runtimes.bundle.losses import Announce, name_deleted
from .bundling import variants
from .bundling.variants import Ratio
from .proof import gate
from .render import Step
from .result import Exported
from .sources.texts import check_length, refuse_text

if TYPE_CHECKING:
    from ..runtimes.bundle.manifest import Precision, Variant
    from .sources.source import Parts

QUESTIONS = 512


def export(
    source: str | None = None,
    out: Path | str | None = None,
    *,
    method: str | None = None,
    ratio: Ratio | Sequence[Ratio] | None = None,
    keep: int | Sequence[int] | None = None,
    seam: str | None = None,
    recipe: str | Path | None = None,
    params: Mapping[str, Any] | None = None,
    precision: Precision | None = None,
    device: str | None = None,
    parts: Parts = "all",
    size_bias: str = "auto",
    assume_no_padding: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    drop_outputs: Sequence[str] = (),
    verify: bool = True,
    force: bool = False,
    deleting: Announce = name_deleted,
    min_accuracy: float | None = None,
    step: Step = lambda text: None,
) -> Exported:
    """Compress a model, prove the result against PyTorch, and write a bundle: what `tokexport model` does.

    Args:
        source: built-in name (None: tiny-vlm), checkpoint folder, ONNX file, or ``package.module:callable``.
        out: bundle folder; None: ``./<source>-<method>-<ratio>``, or ``./<source>-<recipe>``.
        method: compressor; apet where neither it nor a recipe is given.
        ratio: share of tokens removed, exact. Several make one bundle with a variant for each, over one copy of the
            weights; the first is what a reader of the bundle gets who names none.
        keep: tokens kept, instead of `ratio`; several likewise.
        seam: where; ``auto``, the default, takes the place of the method's paper.
        recipe: several compressors in sequence, instead of method, budget and seam: a name or a TOML file (see
            `graph_passes.recipes`).
        params: of the method. Of a recipe's steps: ``KEY`` for all that have it, ``N.KEY`` for step N.
        precision: fp32, fp16 or bf16, as types in the graph; None: fp32, or what is recommended for `device`.
        device: the device it is for, ``NAME`` or ``NAME@TENSORRT`` (`devices.profiles.target`): what it cannot run is
            refused, and what was chosen for it is in the notes and in the manifest.
        parts: ``encoder`` leaves the language graphs and the graph text out.
        size_bias: ``auto`` gives merged tokens their weight wherever we own the graph behind the seam.
        assume_no_padding: a mask in the graph that depends on an input never masks a token; the manifest says that it
            was taken for granted. Without it such a graph is refused, because padding would be kept and merged.
        input_shapes: of an ONNX file, input name -> sizes, for inputs with dynamic axes beside the batch.
        drop_outputs: of an ONNX file, outputs that are left out, such as lengths that would keep the old count.
        verify: prove every part; a failed proof is a `GateError`.
        force: also replace a folder that holds files which tokexport did not write: its whole content is deleted. A
            folder that holds a part of the source, or of a file named here, is never replaced.
        deleting: called with a folder and the names of such files before they are deleted; the default prints them on
            stderr.
        min_accuracy: least share of right answers, for built-in models, of every variant.
        step: called with the name of each step.

    Raises:
        RequestError, GraphError, BundleError: exit 2, nothing written.
        MissingError: exit 3.
        GateError: exit 1; the result is in ``<out>.failed``.
    """
    from ..runtimes.bundle.writer import BundleWriter
    from .bundling import device_fit, graphs
    from .evaluate import accuracy
    from .opening import open_source
    from .proof import prove
    from .report import page

    asked, named = variants.requests(method, ratio, keep, seam, recipe, params)
    # What follows is about the method, so it is the same for every budget; a recipe has none but its own.
    compressor = asked[0][-1].compressor
    goal = device_fit.target(device)
    asked_precision, (precision, chosen) = precision, device_fit.precision(goal, precision)
    step("opening the model")
    opened = open_source(source, parts=parts, input_shapes=input_shapes, drop_outputs=drop_outputs).prepared(compressor)
    precision, held = device_fit.held(opened, asked_precision, precision, verify)
    chosen = held or chosen
    if parts == "all" and opened.language(1) and not (opened.text_seam and len(asked[0]) == 1):
        for one in asked[0]:
            why = "have none to give" if not opened.text_seam else "give it to one compressor, not to several in a row"
            refuse_text(one.compressor, f"the language graphs of {opened.name} {why}", "Add --parts encoder.")
    if min_accuracy is not None and not (opened.has_task and parts == "all" and verify and precision != "bf16"):
        raise RequestError(
            f"--min-accuracy needs a model with questions, all its graphs, and the proof (asked: {opened.name})",
            fix="Use it with a built-in model, --parts all, in fp32 or fp16, without --no-verify.",
        )
    gate.check_least(min_accuracy)
    if min_accuracy is not None:
        # What the questions need is missed now, not after the export.
        opened.questions(1, accuracy.SEED)
    check_length(opened, compressor)
    plans = [graphs.Plan(opened, steps, parts, size_bias, named, params or {}, assume_no_padding) for steps in asked]
    rates = "-".join(plan.budget.replace("/", "_") for plan in plans)
    target = Path(out) if out is not None else Path(f"{opened.name}-{named or f'{compressor.method.name}-{rates}'}")
    sources = [*opened.origin, *opened.files, *variants.files((one.compressor for one in asked[0]), recipe)]

    results: list[Exported] = []
    made: list[Variant] = []
    proofs: dict[str, prove.Proved] = {}
    shown: tuple[graphs.Plan, graphs.Built] | None = None
    with BundleWriter(target, force=force, sources=sources, deleting=deleting) as writer:
        for path, content in opened.processor_files.items():
            writer.add_file(path, content)
        # ONNX Runtime's CPU cannot run bfloat16: what can be proved here are the same graphs in fp32.
        fp32_reference = precision == "bf16" and verify
        for plan, built, proven in variants.build(plans, precision, step, fp32_reference=fp32_reference):
            fitted, found = device_fit.fit(goal, built.models)
            step("writing the bundle")
            variant = graphs.write(writer, plan, built, precision, first=not made)
            variant.device = fitted
            made.append(variant)
            compression = [record.model_dump() for record in variant.compression]
            result = Exported(target, opened.name, precision, compression, variant=variant.name)
            result.notes = [*chosen, *found, *built.notes]
            result.device = fitted.model_dump() if fitted else None
            results.append(result)
            shown = shown or (plan, proven)
            if not verify:
                continue
            step("proving every part against PyTorch")
            proved = prove.prove(writer.folder, variant, plan, proven, precision, result.notes)
            proofs[variant.name], result.proof, result.drift = proved, proved.record, proved.drift
            if not (opened.has_task and built.language and precision != "bf16"):
                continue
            step(f"answering {QUESTIONS} questions")
            known = results[0].accuracy
            try:
                result.accuracy = accuracy.measure(
                    plan, proven, writer.folder, variant, QUESTIONS, known["uncompressed"] if known else None
                )
            except MissingError as missing:
                result.notes.append(f"accuracy was not measured: {missing}")
        if proofs:
            prove.keep(writer, proofs)
        first = results[0]
        first.further = results[1:]
        failure = _failure(results, min_accuracy)
        step("writing the report")
        assert shown is not None
        # The pictures ask the bundle itself.
        manifest = writer.finish(graphs.manifest(opened, made, _parity(results)))
        encoded = proofs[first.variant].encoded if proofs else []
        page.add(writer, *shown, manifest, first, encoded, failure)
        step("putting the bundle in place")
        manifest = graphs.manifest(opened, made, _parity(results))
        if failure:
            failed = writer.commit_failed(manifest)
            raise GateError(failure, where=f"kept for inspection in {failed}", fix=_WHAT_TO_TRY)
        writer.commit(manifest)
    return first


_WHAT_TO_TRY = (
    "Do not ship it. In fp16 try --precision fp32; `tokexport inspect` shows other seams; a smaller --ratio or "
    "kcenter_merge loses less."
)


def _parity(results: list[Exported]) -> dict[str, Any]:
    """What the manifest keeps of the proofs; see `gate.of_export`."""
    records = {}
    for result in results:
        if result.proof:
            records[result.variant] = {"checks": result.proof["checks"], "notes": result.notes}
            records[result.variant] |= {"accuracy": result.accuracy} if result.accuracy else {}
    if not records:
        return {}
    (_, first), *others = records.items()
    return first | ({"variants": dict(others)} if others else {})


def _failure(results: list[Exported], min_accuracy: float | None) -> str:
    """What gate failed, or nothing."""
    for result in results:
        bad = [check for check in result.proof["checks"] if not check["ok"]] if result.proof else []
        failure = gate.shortfall(result.accuracy, min_accuracy)
        if bad:
            first = bad[0]
            failure = (
                f"{len(bad)} of {len(result.proof['checks'] if result.proof else [])} checks failed; the first: "
                f"{first['part']}, tensor {first['tensor']}: cosine {first['cosine']:.6f}, norm ratio "
                f"{first['norm_ratio']:.5f}; {first['detail']}"
            )
        if failure:
            return failure if len(results) == 1 else f"variant {result.variant}: {failure}"
    return ""
