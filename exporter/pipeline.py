"""`export()`: the whole way from a model to a proved bundle, as one list of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GateError, MissingError, RequestError
from ..keywords import answered
from ..runtimes.bundle.losses import Announce, name_deleted
from .bundling import device_fit, graphs, inner, variants
from .bundling import llm_weights as quantising
from .bundling import size_bias as biases
from .bundling.variants import Ratio
from .progress import Progress, log
from .proof import gate, prove
from .report.look import own_inputs
from .result import Exported
from .sources.checkpoint import image_size_of, lengths_of
from .sources.clip import clip_of
from .sources.texts import check_length, refuse_text

if TYPE_CHECKING:
    import numpy as np

    from ..graph_passes.insertion.sequence import Step
    from ..graph_passes.precision.blocks import Weights
    from ..runtimes.bundle.manifest import Precision, Variant
    from ..runtimes.bundle.writer import BundleWriter
    from .sources.checkpoint import Lengths
    from .sources.clip import Clip
    from .sources.source import Parts, Source

QUESTIONS = 512


@dataclass
class _Made:
    """One variant of the bundle that is being made.

    Attributes:
        plan: what was asked for.
        runnable: its graphs as they can be run here: in bf16 their fp32 reference build.
        entry: of the manifest.
        result: what the caller gets.
        proved: None with ``verify=False``.
    """

    plan: graphs.Plan
    runnable: graphs.Built
    entry: Variant
    result: Exported
    proved: prove.Proved | None = None


@answered
def export(
    source: str | None = None,
    out: Path | str | None = None,
    *,
    method: str | None = None,
    ratio: Ratio | Sequence[Ratio] | None = None,
    keep: int | Sequence[int] | None = None,
    seam: str | None = None,
    rebuild: bool = False,
    recipe: str | Path | None = None,
    params: Mapping[str, Any] | None = None,
    precision: Precision | None = None,
    device: str | None = None,
    parts: Parts = "all",
    size_bias: str = "auto",
    assume_no_padding: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    drop_outputs: Sequence[str] = (),
    window: float | Sequence[float] | None = None,
    images: int | None = None,
    prompt_length: int | None = None,
    answer_length: int | None = None,
    image_size: str | tuple[int, int] | None = None,
    frames: int | None = None,
    fps: float | None = None,
    verify: bool = True,
    force: bool = False,
    deleting: Announce = name_deleted,
    min_accuracy: float | None = None,
    llm_weights: Weights | None = None,
    min_agreement: float | None = None,
    inputs: str | Path | None = None,
    step: Progress = log,
) -> Exported:
    """Compress a model, prove the result against PyTorch, and write a bundle: what `tokexport model` does.

    Args:
        source: built-in name (None: tiny-vlm), checkpoint folder, ONNX file, or ``package.module:callable``.
        out: bundle folder; None: ``./<source>-<method>-<ratio>``, or ``./<source>-<recipe>``.
        method: `tokexport.methods()` lists them.
        ratio: share of tokens removed, exact; several make a variant each over the same weights, the first by default.
        keep: tokens kept, instead of `ratio`; several likewise. seam: where; ``auto``: the place of the method's paper.
        rebuild: put tokens that were compressed inside the encoder back at their places behind its last layer.
        recipe: several compressors in sequence, instead of method, budget and seam: a name or a TOML file.
        params: of the method. Of a recipe's steps: ``KEY`` for all that have it, ``N.KEY`` for step N.
        precision: fp32, fp16 or bf16, as types in the graph; None: fp32, or what is recommended for `device`.
        device: ``NAME`` or ``NAME@TENSORRT`` (`devices.profiles.target`): what it cannot run is refused.
        parts: ``encoder`` leaves the language graphs and the graph text out.
        size_bias: ``auto``, ``positions`` or ``off``, how merged tokens count; see `bundling.size_bias`.
        assume_no_padding: masks that depend on an input mask nothing, as the manifest then says; else they are refused.
        input_shapes: of an ONNX file, input name -> sizes, for inputs with dynamic axes other than the batch.
        drop_outputs: of an ONNX file, outputs that are left out, as lengths are that would keep the old count.
        window: seconds of sound that the encoder takes, where its family leaves a choice; several: a variant each.
        images, prompt_length, answer_length: of prompts; ids besides; tokens of an answer at most; None: 1, 128, 128.
        image_size: height and width, or ``HEIGHTxWIDTH``, of a checkpoint's pictures; frames, fps: of its videos.
        force: also replace a folder of files that tokexport did not write, unless it holds a file that is named here.
        deleting: called with a folder and the names of such files before they are deleted; by default prints them.
        verify: prove every part. min_accuracy: least share of right answers of every variant of a built-in model.
        llm_weights: int8 or int4, of the language graphs. min_agreement: least share of words as float; None: .95, .8.
        inputs: a folder of images, videos or sounds, of which the report shows the first.
        step: called with the name of each stage; by default the logger ``tokexport`` gets them.

    Raises:
        RequestError, GraphError, BundleError: exit 2, nothing written. MissingError: exit 3.
        GateError: exit 1; the result is in ``<out>.failed``.
    """
    asked, name = variants.requests(method, ratio, keep, seam, recipe, params, rebuild)
    fit = device_fit.choose(device, precision)
    held = lengths_of(prompt_length, answer_length, images), image_size_of(image_size), clip_of(frames, fps)
    opened = _opened(source, parts, inner.parted(asked[0])[0], input_shapes, drop_outputs, *held, step=step)
    fit = device_fit.of_half_file(fit, opened, precision, verify=verify)
    _check_gate(min_accuracy, opened, possible=parts == "all" and verify and fit.precision != "bf16")
    weights = quantising.asked(llm_weights, min_agreement, opened, parts, fit, verify=verify)
    common = (parts, size_bias, name, params or {}, assume_no_padding, weights.opset if weights else None)
    plans = _plans(variants.windows(opened, window), asked, common)
    own = own_inputs(inputs, plans[0].source)
    bundle = Path(out) if out is not None else variants.default_folder(plans)
    with _writer()(bundle, force=force, sources=_sources(opened, asked[0], recipe), deleting=deleting) as writer:
        made = _make(writer, bundle, plans, fit, step, weights, verify=verify)
        return _finish(writer, made, min_accuracy, step, own)


def _writer() -> type[BundleWriter]:
    from ..runtimes.bundle.writer import BundleWriter

    return BundleWriter


def _opened(
    source: str | None,
    parts: Parts,
    steps: Sequence[Step],
    input_shapes: Mapping[str, Sequence[int]] | None,
    drop_outputs: Sequence[str],
    lengths: Lengths | None,
    size: tuple[int, int] | None,
    clip: Clip | None,
    *,
    step: Progress,
) -> Source:
    """The source as the last compressor needs it, unless one of `steps` reads a text that the model cannot give it."""
    from .opening import open_source

    step("opening the model")
    held: dict[str, Any] = {"lengths": lengths, "image_size": size, "clip": clip}
    opened = open_source(source, parts=parts, input_shapes=input_shapes, drop_outputs=drop_outputs, **held)
    variants.check_places(opened, steps)
    opened = opened.prepared(steps[-1].compressor)
    check_length(opened, steps[-1].compressor)
    if parts == "all" and opened.language(1) and not (opened.text_seam and len(steps) == 1):
        why = "give it to one compressor, not to several" if opened.text_seam else "have none to give"
        for one in steps:
            refuse_text(one.compressor, f"the language graphs of {opened.name} {why}", "Add --parts encoder.")
    return opened


def _sources(opened: Source, steps: Sequence[Step], recipe: str | Path | None) -> list[Path]:
    """What no bundle may overwrite."""
    return [*opened.origin, *opened.files, *variants.files((one.compressor for one in steps), recipe)]


def _plans(sources: Sequence[Source], asked: Sequence[Sequence[Step]], common: tuple[Any, ...]) -> list[graphs.Plan]:
    """One for each window and budget; `common` are the fields of each behind the steps."""
    plans = []
    for source in sources:
        for steps in asked:
            outer, inside = inner.parted(steps)
            placed = inner.placed(source, inside, *common[:2])
            plans.append(graphs.Plan(biases.reading(placed, outer, common[1]), outer, *common))
    return plans


def _check_gate(min_accuracy: float | None, opened: Source, *, possible: bool) -> None:
    """Refuse a least accuracy that could not be measured, before the export is made."""
    from .evaluate import accuracy

    if min_accuracy is not None and not (opened.has_task and possible):
        raise RequestError(
            f"--min-accuracy needs a model with questions, all its graphs, and the proof (asked: {opened.name})",
            fix="Use it with a built-in model, --parts all, in fp32 or fp16, without --no-verify.",
        )
    gate.check_least(min_accuracy)
    if min_accuracy is not None:
        # Raises where a package that the questions need is not installed.
        opened.questions(1, accuracy.SEED)


def _make(
    writer: BundleWriter,
    bundle: Path,
    plans: Sequence[graphs.Plan],
    fit: device_fit.Choice,
    step: Progress,
    weights: quantising.Asked | None,
    *,
    verify: bool,
) -> list[_Made]:
    """Write what the model reads text by, and build, write, prove and measure every variant."""
    from ..graph_passes.ir_tools.model_io import load_model

    made: list[_Made] = []
    for path, content in plans[0].source.processor_files.items():
        writer.add_file(path, content)
    for plan, built, runnable in variants.build(plans, fit.precision, step, fp32_reference=verify):
        if weights:
            # Graphs in bf16, whose reference build is another one, are refused.
            built = runnable = quantising.quantised(built, weights.by, step)
        one = _write(writer, bundle, plan, built, runnable, fit, first=not made, step=step)
        if weights:
            one.entry.llm_weights = quantising.record(weights.by)
        if verify:
            _prove(writer, one, step, weights)
            _measure(writer.folder, one, step)
        else:
            forms = {role: graph.forms["portable"] for role, graph in one.entry.graphs.items()}
            runnable.let_go(plan.source, {role: load_model(writer.folder / file) for role, file in forms.items()})
        made.append(one)
    return made


def _write(
    writer: BundleWriter,
    bundle: Path,
    plan: graphs.Plan,
    built: graphs.Built,
    runnable: graphs.Built,
    fit: device_fit.Choice,
    *,
    first: bool,
    step: Progress,
) -> _Made:
    """Fit the graphs of a variant to the device and add them to the bundle."""
    fitted, notes = device_fit.fit(fit.target, built.models)
    step("writing the bundle")
    entry = graphs.write(writer, plan, built, fit.precision, first=first)
    entry.device = fitted
    result = Exported(
        bundle,
        plan.source.name,
        fit.precision,
        [record.model_dump() for record in entry.compression],
        device=fitted.model_dump() if fitted else None,
        notes=[*fit.notes, *notes, *built.notes],
        omitted=plan.source.omitted,
        variant=entry.name,
    )
    return _Made(plan, runnable, entry, result)


def _prove(writer: BundleWriter, one: _Made, step: Progress, weights: quantising.Asked | None) -> None:
    """Compare every part of a written variant with PyTorch, and tell what its compressors cost."""
    from .evaluate import cost

    step("proving every part against PyTorch")
    result, folder, least = one.result, writer.folder, weights.least if weights else None
    common = (folder, one.entry, one.plan, one.runnable, result.precision, result.notes)
    with writer.aside(one.runnable.floats) as floats:
        one.proved = prove.prove(*common, floats=floats, min_agreement=least)
    if one.entry.llm_weights:
        one.entry.llm_weights = one.entry.llm_weights.model_copy(update=one.proved.weights)
        result.llm_weights = one.entry.llm_weights.model_dump()
    result.proof, result.drift = one.proved.record, one.proved.drift
    step("timing it")
    found, costly = cost.measure(folder, one.entry, one.runnable, one.proved, precision=result.precision)
    result.cost = found.to_json()
    result.notes += costly


def _measure(folder: Path, one: _Made, step: Progress) -> None:
    """Answer the model's questions with a written variant, where it has any and all graphs run here."""
    from .evaluate import accuracy, usefulness

    if not one.plan.source.has_task or one.entry.generation is None or one.result.precision == "bf16":
        return
    step(f"answering {QUESTIONS} questions")
    try:
        one.result.accuracy = accuracy.measure(one.plan, one.runnable, folder, one.entry, QUESTIONS)
        note = usefulness.judge(one.result.accuracy).note
        one.result.notes += [note] if note else []
    except MissingError as missing:
        one.result.notes.append(f"accuracy was not measured: {missing}")


def _finish(
    writer: BundleWriter,
    made: Sequence[_Made],
    min_accuracy: float | None,
    step: Progress,
    own: Sequence[dict[str, np.ndarray]],
) -> Exported:
    """Keep proofs and report in the bundle and put it in place; where a gate failed, in ``<out>.failed``.

    Raises:
        GateError: a check failed, or an accuracy is below the least.
    """
    from .report import page

    first, opened = made[0], made[0].plan.source
    results = [one.result for one in made]
    proofs = {one.entry.name: one.proved for one in made if one.proved}
    if proofs:
        prove.keep(writer, proofs)
    first.result.further = results[1:]
    failure = gate.failure(results, min_accuracy)
    step("writing the report")
    entries = [one.entry for one in made]
    # The pictures of the report are made by running the bundle, so it needs its manifest now.
    manifest = writer.finish(graphs.manifest(opened, entries, _parity(results)))
    page.add(writer, first.plan, first.runnable, manifest, first.result, first.proved, failure, own)
    step("putting the bundle in place")
    kept = _parity(results) | ({"failed": failure} if failure else {})
    manifest = graphs.manifest(opened, entries, kept)
    gate.seal(manifest)
    if failure:
        failed = writer.commit_failed(manifest)
        raise GateError(failure, where=f"kept for inspection in {failed}", fix=gate.what_to_try(results, min_accuracy))
    writer.commit(manifest)
    return first.result


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
