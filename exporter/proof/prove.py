"""Proves the graphs of a bundle as they were written, stores the probes in it, and measures the end-to-end error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import GraphError, first_line
from ...files import utf8_name
from ..bundling.language import language_values
from ..freed import give_back
from ..sources.texts import proof_ids, with_text
from . import probes as probe_file
from .probes import ANSWERS

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.insertion.inserted import Inserted
    from ...runtimes.bundle.manifest import Role, Variant
    from ...runtimes.bundle.writer import BundleWriter
    from ..bundling.graphs import Built, Plan
    from ..sources.source import Source
    from .metrics import Check
    from .probes import Probe

SAMPLES = 3

# (input by role, outputs by the graph's names) of one run of the whole encoder.
Encoded = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Proved:
    """The proof of one variant.

    Attributes:
        record: its entry of parity.json.
        drift: the end-to-end error; None where there is no module.
        encoded: each input, and the encoder's outputs for it.
        probes: what is compared again, by graphs that are in the bundle.
        weights: what `WeightsRecord` says of the agreement; empty where no weights were quantised.
    """

    record: dict[str, Any]
    drift: dict[str, float] | None
    encoded: list[Encoded]
    probes: list[Probe]
    weights: dict[str, Any] = field(default_factory=dict)


def prove(
    folder: Path,
    variant: Variant,
    plan: Plan,
    built: Built,
    precision: str,
    notes: list[str],
    *,
    floats: Mapping[Role, Path] | None = None,
    min_agreement: float | None = None,
) -> Proved:
    """Prove the written graphs of a variant part by part; then, where weights were quantised, what that changes.

    Args:
        folder: where they were written.
        variant: names their files.
        plan: for the source, its real inputs and its modules.
        built: the graphs as they were written; for bf16, their fp32 reference build.
        precision: of the bundle.
        notes: receives remarks for readers of the proof.
        floats: files of the float graphs that those with quantised weights were made of.
        min_agreement: see `agreement`.
    """
    from ...graph_passes.ir_tools.model_io import load_model
    from ...runtimes.ort.graph import ort_runner
    from .encoder_probes import encoder_probes
    from .end_to_end import end_to_end
    from .generation import check_answers, in_prompts
    from .inner_parts import compressor_probes, picks
    from .parity import check

    source, inserted, models = plan.source, built.inserted, built.models
    written = {role: folder / graph.forms["portable"] for role, graph in variant.graphs.items()}
    files = {**written, **(floats or {})}
    if precision == "bf16":
        _check_types(files.values())
    else:
        models = {role: load_model(file) for role, file in files.items()}
        bundled = {role: load_model(file) for role, file in written.items()} if floats else models
        # The weights of PyTorch and of ONNX Runtime are in memory together only for the encoder; bf16's reference build
        # is in no file.
        built.let_go(source, bundled)
        give_back()
    samples = with_text(source.real_inputs(SAMPLES), models["encoder"], source)
    encoded = _encoded(models["encoder"], samples)
    probes = encoder_probes(source.encoder, models["encoder"], inserted, samples, ort_runner)
    give_back()
    parts = {probe.part for probe in probes}
    probes += _of_text(source, built)
    bounded = "head" in parts and all(step.seam.module for step in inserted.steps)
    whole_in_torch = end_to_end(source.encoder, inserted, encoded) if bounded else None
    by_role = in_prompts(variant.generation, _by_role(variant, encoded))
    if variant.generation:
        wholes = in_prompts(variant.generation, whole_in_torch.wholes if whole_in_torch else [])
        inner = _inside_prefill(plan, built, variant, by_role, models)
        probes += compressor_probes(built.inner, inner)
        if inner:
            by_role = [{**one, **picks(own, variant.generation, one)} for one, own in zip(by_role, inner)]
        probes += _of_language(plan, built, variant, by_role, wholes, inner)
        if precision != "bf16":
            source.let_go()
            give_back()
    judged = "fp32" if precision == "bf16" else precision
    checks = check(probes, models, ort_runner, judged)
    checks += check_answers(probes, variant, models, ort_runner, judged)
    weights: dict[str, Any] = {}
    if floats:
        probes, found, weights = _with_weights(source, variant, by_role, (models, bundled), probes, min_agreement)
        checks += found
    give_back()
    read = variant.generation or inserted.sized or source.answer or plan.size_bias == "off"
    merged = any(step.compressor.method.merges for step in inserted.counted)
    notes += _remarks(source, inserted, parts, precision, unread=merged and not read)
    told = [found.to_json() for found in checks]
    proof = {"runtime": "onnxruntime-cpu", "precision": precision, "samples": SAMPLES, "checks": told}
    proof["notes"] = list(notes)
    return Proved(proof, whole_in_torch.error if whole_in_torch else None, encoded, probes, weights)


def _inside_prefill(
    plan: Plan, built: Built, variant: Variant, by_role: Any, models: Mapping[Role, ir.Model]
) -> list[dict[str, np.ndarray]]:
    """What prefill computes around its compressors, of each sample; nothing where it has none."""
    from ...runtimes.ort.graph import ort_runner
    from .generation import images_of
    from .inner_parts import prefill_values

    if not built.inner:
        return []
    asked = [(one, plan.source.proof_prompt(*images_of(variant.generation, one))) for one in by_role]
    found = prefill_values(variant, built.inner, models, ort_runner, asked)
    give_back()
    return found


def _of_language(
    plan: Plan, built: Built, variant: Variant, by_role: Any, wholes: list[Any], inner: list[dict[str, np.ndarray]]
) -> list[Probe]:
    """What PyTorch makes of the language graphs and of answers; it holds their modules no longer than that."""
    from .generation import answer_probes
    from .inner_parts import around, given
    from .parity import language_probes

    modules = built.language or plan.source.language(built.inserted.leaving)
    prefill = given(modules, built.inner, inner[0]) if inner else None
    probes = language_probes(modules, language_values(by_role[0]))
    if inner:
        whole = next(probe for probe in probes if probe.part == "prefill")
        probes = [probe for probe in probes if probe is not whole]
        probes += around(whole, prefill, built.inner, inner[0])
    return probes + (answer_probes(plan.source, variant, by_role, wholes) if plan.source.proof_prompt() else [])


def _encoded(encoder: ir.Model, samples: list[dict[str, np.ndarray]]) -> list[Encoded]:
    """Each sample, and what the compressed encoder gives for it."""
    from ...runtimes.ort.graph import ort_runner

    run = ort_runner(encoder)
    encoded = [(sample, run(sample)) for sample in samples]
    # It holds buffers for attention over all tokens, and nothing else runs it.
    del run
    give_back()
    return encoded


def _of_text(source: Source, built: Built) -> list[Probe]:
    """Probes of the graph text, where there is one."""
    from .parity import language_probes

    if not built.text:
        return []
    (ids,) = built.text.inputs.values()
    prompts = proof_ids(source, SAMPLES, ids.shape[1])
    return [probe for one in prompts for probe in language_probes([built.text], {"input_ids": one})]


def _with_weights(
    source: Source,
    variant: Variant,
    encoded: list[dict[str, np.ndarray]],
    graphs: tuple[Mapping[Role, ir.Model], Mapping[Role, ir.Model]],
    probes: list[Probe],
    least: float | None,
) -> tuple[list[Probe], list[Check], dict[str, Any]]:
    """Compare graphs with quantised weights with the float ones that were proved.

    Args:
        source: of the model.
        variant: of the manifest.
        encoded: the encoder's outputs by role, of each sample.
        graphs: the float ones, and those in the bundle.
        probes: of the proof so far.
        least: see `agreement`.

    Returns:
        The probes that the bundle's graphs are to be held against from now on, one check, and its figures.
    """
    from ...runtimes.ort.graph import ort_runner
    from .agreement import agreement_probes, answers_again, check_agreement, figures
    from .generation import LANGUAGE

    floats, models = graphs
    assert variant.llm_weights is not None, "float graphs are given beside quantised ones"
    given = agreement_probes(source, variant, encoded, floats, ort_runner, variant.llm_weights.weights, least)
    found = check_agreement(given, variant, models, ort_runner)
    again = answers_again([probe for probe in probes if probe.part == ANSWERS], variant, models, ort_runner)
    kept = [probe for probe in probes if probe.part not in (*LANGUAGE, ANSWERS)]
    return [*kept, *again, *given], found, figures(found[0], given)


def _by_role(variant: Variant, encoded: Sequence[Encoded]) -> list[dict[str, np.ndarray]]:
    """The encoder's outputs of each sample, by role."""
    outputs = variant.graphs["encoder"].outputs
    return [{role: got[record.name] for role, record in outputs.items()} for _, got in encoded]


def keep(writer: BundleWriter, proofs: Mapping[str, Proved]) -> None:
    """Add the probes and parity.json, which is the first variant's proof and has the others' under ``variants``.

    Args:
        writer: of the bundle.
        proofs: by variant, in the bundle's order.
    """
    first, *others = proofs
    for name in others:
        for probe in proofs[name].probes:
            probe.variant = name
    writer.add_file(
        probe_file.FILE, probe_file.to_bytes([probe for proved in proofs.values() for probe in proved.probes])
    )
    further = {"variants": {name: proofs[name].record for name in others}} if others else {}
    writer.add_json("parity.json", proofs[first].record | further)


def _check_types(files: Iterable[Path]) -> None:
    """Check types and shapes of graphs that cannot be run, with the ONNX checker."""
    import onnx

    for file in files:
        try:
            onnx.checker.check_model(utf8_name(file), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise GraphError(
                f"the typed graph is not valid: {first_line(error)}",
                where=file.name,
                fix="Try --precision fp32 or fp16, and report this.",
            ) from error


def _remarks(source: Source, inserted: Inserted, parts: set[str], precision: str, *, unread: bool) -> list[str]:
    remarks = []
    unbound = [step.seam.name for step in inserted.steps if not step.seam.module]
    if source.encoder.module is None:
        but = f", but for the size bias in {len(inserted.biased)} attentions" if inserted.biased else ""
        remarks.append(f"a foreign ONNX file: the compressor is proved; head and tail are the file's own{but}")
    elif unbound:
        what = "the layers around it are not proved" if "head" in parts else "only the compressor is proved"
        remarks.append(f"seam {', '.join(unbound)} is no boundary of a PyTorch module: {what}")
    elif "tail" not in parts:
        remarks.append("the compressor ends the encoder: there is no tail to prove")
    if precision == "fp16":
        remarks.append(
            "ONNX Runtime's CPU computes fp16 partly in fp32: this proves types; ranges were checked on the fp32 graph"
        )
    if precision == "bf16":
        remarks.append(
            "ONNX Runtime's CPU cannot run bf16: these are checks of the same graphs in fp32; of the bf16 graphs the "
            "types and shapes were checked, their values were not"
        )
    if unread:
        remarks.append(
            "merged tokens keep their weight only if log(sizes) is added to the attention of your language model"
        )
    return remarks
