"""The graphs of a bundle: exported, typed, compressed, and recorded in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ...errors import RequestError
from ...graph_passes.compressors import Case, Compressor
from ...graph_passes.compressors.blocks.texts import TEXT
from ...graph_passes.forms import no_plugin, without_plugin
from ...graph_passes.insertion import schedule, sequence
from ...graph_passes.insertion.fill import Filled, fill
from ...version import __version__
from ..sources.onnx_file import OnnxSource
from ..sources.texts import check_place, text_of, with_text
from .inner import EveryToken
from .records import compression_record, graph_roles, inner_record
from .typed import typed

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from ...graph_passes.insertion.insert import Inserted
    from ...graph_passes.seams.seam import Seam
    from ...runtimes.bundle.manifest import GraphRecord, Manifest, Precision, Role, Variant
    from ...runtimes.bundle.writer import BundleWriter
    from ..progress import Progress
    from ..sources.source import GraphSource, Source

_RANGE_SAMPLES = 3
_VERSIONED = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True)
class Plan:
    """What was asked for, in any precision; the fields are the arguments of `pipeline.export`.

    Attributes:
        steps: the compressors in the encoder, in the order in which tokens pass them; those between the layers of the
            language model are the source's `inner`.
        recipe: its name, where one was asked for.
        settings: parameters of the recipe's steps that the request sets.
        assume_no_padding: whether masks that depend on inputs are taken for masks that mask nothing.
        language_opset: of the language graphs; None: the usual one.
    """

    source: Source
    steps: tuple[sequence.Step, ...]
    parts: str
    size_bias: str
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    assume_no_padding: bool = False
    language_opset: int | None = None

    @property
    def compressor(self) -> Compressor:
        """The last one in the encoder."""
        return self.steps[-1].compressor

    @property
    def asked(self) -> tuple[sequence.Step, ...]:
        """The compressors that were asked for."""
        return (*(step for step in self.steps if not isinstance(step, EveryToken)), *self.source.inner)

    @property
    def method(self) -> str:
        """The name of the last method that was asked for."""
        return self.asked[-1].compressor.method.name

    @property
    def budget(self) -> str:
        """The ratio as it was asked for, or ``keep<K>``; of a recipe that of its last step."""
        return self.asked[-1].budget

    @property
    def name(self) -> str:
        """Of the variant that is made."""
        name = self.recipe or f"{self.method}-{self.budget.replace('/', '_')}"
        return name if self.source.window is None else f"{name}-{self.source.window:g}s"


@dataclass(frozen=True)
class Built:
    """Graphs in one precision.

    Attributes:
        models: by role, in portable form.
        uncompressed: the encoder in the same precision, without the compressor.
        inserted: where the compressor sits in the encoder; of a recipe the last step.
        language: the modules of embed, prefill and decode.
        notes: fp32 islands and what else a user must know.
        text: the module of text; None where the compressor reads none, or the source has no such graph.
        steps: of `inserted`: those of the plan, or of their schedule.
        floats: by role, the graphs that those with quantised weights in `models` were made of.
        inner: the compressors in prefill.
    """

    models: dict[Role, ir.Model]
    uncompressed: ir.Model
    inserted: Inserted
    language: list[GraphSource]
    notes: list[str]
    text: GraphSource | None = None
    steps: tuple[sequence.Step, ...] = ()
    floats: dict[Role, ir.Model] = field(default_factory=dict)
    inner: list[Filled] = field(default_factory=list)

    def let_go(self, source: Source, written: Mapping[Role, ir.Model]) -> None:
        """Forget the language model of `source`, and take its graphs from where they were `written`."""
        self.language.clear()
        source.let_go()
        for graphs in (self.models, self.floats):
            for role, before in graphs.items():
                # Patterns of onnxscript hold the last graph that they were tried on for good: its weights go first.
                if role != "encoder" and before is not written[role]:
                    for value in before.graph.initializers.values():
                        value.const_value = None
        self.models.update(written)
        self.floats.clear()


def build(
    plan: Plan, precision: Precision, step: Progress, exported: tuple[ir.Model, list[str]] | None = None
) -> Built:
    """Export, type and compress the encoder; export the language graphs for the tokens that it keeps.

    Args:
        plan: what was asked for.
        precision: of the graphs.
        step: called with the name of each stage.
        exported: the result of `encoder` in this precision, where it is known already.
    """
    if exported is None:
        step("exporting the encoder")
        exported = encoder(plan.source, precision)
    uncompressed, notes = exported[0], [*plan.source.notes, *exported[1]]
    model = uncompressed.clone()
    step(f"inserting {', '.join(one.compressor.method.name for one in plan.steps)}")
    steps = schedule.spread(uncompressed, plan.steps)
    inserted = compress(replace(plan, steps=steps), model)
    for one, done in zip(steps, inserted.steps):
        wanted = plan.source.seam_for(one.compressor)
        if one.seam == "auto" and done.seam.name != wanted:
            notes.append(f"{wanted}, the seam of {done.method}, cannot be used here: {done.seam.name} was used instead")
    notes += [
        f"the tokens that {done.method} compressed are put back at their places behind the encoder's last layer"
        for done in inserted.steps
        if done.rebuilt
    ]
    notes += [f"encoder: no plugin form, because {no_plugin(method).what}" for method in without_plugin(model)]
    text = text_of(plan.source, plan.compressor)
    language = plan.source.language(inserted.leaving) if plan.parts == "all" else []
    _check_width(model, inserted, language)
    models: dict[Role, ir.Model] = {"encoder": model}
    samples = _language_samples(language, model, plan.source) if precision == "fp16" and language else {}
    filled: list[Filled] = []
    for graph in (*([text] if text else []), *language):
        step(f"exporting {graph.role}")
        opset = plan.language_opset if graph.role != "text" else None
        inner = _inner(plan, inserted.leaving) if graph.role == "prefill" else []
        models[graph.role], said = typed(_export(graph, opset), precision, samples.get(graph.role), inner)
        filled += fill(models[graph.role], inner) if inner else []
        notes += [f"{graph.role}: {note}" for note in said]
    notes += [f"prefill: no plugin form, because {no_plugin(method).what}" for method in _no_plugin(models)]
    notes += [_by_position(plan.source, inserted.leaving)] if plan.source.by_position else []
    return Built(models, uncompressed, inserted, language, notes, text, steps, inner=filled)


def _inner(plan: Plan, keep: int) -> list[tuple[Compressor, Case]]:
    """The compressors between the layers of the language model, which K = `keep` tokens enter."""
    cases = plan.source.inner_cases(keep)
    return [(step.made(case.keep), case) for step, case in zip(plan.source.inner, cases, strict=True) if case.keep]


def _by_position(source: Source, keep: int) -> str:
    record = source.generation(keep)
    assert record is not None, "there are language graphs"
    return (
        f"prefill reads merged tokens at the positions of all that is in them: its layers compute {keep} tokens, and "
        f"its attention is over {record.tokens_in} positions"
    )


def _no_plugin(models: dict[Role, ir.Model]) -> list[str]:
    return without_plugin(models["prefill"]) if "prefill" in models else []


def _check_width(model: ir.Model, inserted: Inserted, language: list[GraphSource]) -> None:
    """The language graphs must take as many channels as the encoder's tokens have."""
    given = next(value for value in model.graph.outputs if value.name not in inserted.outputs.values())
    for graph in language:
        if "tokens" in graph.inputs and given.shape is not None and given.shape[2] != graph.inputs["tokens"].shape[2]:
            raise RequestError(
                f"{inserted.method} at seam {inserted.seam.name} outputs tokens of {given.shape[2]} channels, but the "
                f"{graph.role} graph takes {graph.inputs['tokens'].shape[2]}",
                fix="Leave --seam out, or export --parts encoder for a language model that takes them.",
            )


def encoder(source: Source, precision: str) -> tuple[ir.Model, list[str]]:
    """The uncompressed encoder in `precision`, and notes on it.

    It is converted to half precision before a compressor is inserted, whose body is built for the dtype of the tokens.
    """
    fixed: list[str] = []
    if isinstance(source, OnnxSource):
        model, fixed = source.load()
    else:
        model = _export(source.encoder)
    if source.half:
        return model, fixed
    samples = source.real_inputs(_RANGE_SAMPLES) if precision == "fp16" else None
    model, notes = typed(model, precision, samples)
    return model, [*fixed, *notes]


def compress(plan: Plan, model: ir.Model) -> Inserted:
    """Insert the compressor into `model` where it was asked for, or where its paper puts it in this family."""
    return sequence.insert_steps(
        model,
        plan.steps,
        place(plan, model),
        size_bias=plan.size_bias != "off",
        assume_no_padding=plan.assume_no_padding,
    )


def place(plan: Plan, model: ir.Model) -> list[Seam]:
    """Where in `model`, which has no compressor yet, each of them goes."""
    from ...graph_passes.seams.find import resolve

    source = plan.source
    found = sequence.places(model, plan.steps, source.seam_for)
    for step, seam in zip(plan.steps, found):
        if source.text_seam and TEXT in step.compressor.signals():
            check_place(source, step.compressor, seam, resolve(model, source.text_seam))
    return found


def write(writer: BundleWriter, plan: Plan, built: Built, precision: Precision, *, first: bool = True) -> Variant:
    """Add every graph of a variant to the bundle and return its entry of the manifest.

    The files of the `first` variant do not carry its name.
    """
    from ...runtimes.bundle.manifest import Variant

    source, inserted, models = plan.source, built.inserted, built.models
    graphs: dict[Role, GraphRecord] = {}
    for role, model in models.items():
        # text, embed, prefill and decode read the same weights: one file holds them once.
        data = None if role == "encoder" else "language.onnx.data"
        graphs[role] = writer.add_graph(
            role,
            model,
            graph_roles(source, role, model, inserted),
            precision,
            variant="" if first else plan.name,
            data=data,
        )
    return Variant(
        name=plan.name,
        compression=[
            compression_record(
                source,
                step,
                done,
                size_bias=plan.size_bias != "off" and _reads_sizes(built, done),
                assume_no_padding=plan.assume_no_padding,
            )
            for step, done in zip(built.steps, inserted.steps)
        ]
        + [
            inner_record(source, step, case, done.inputs[0] if done else "", inserted.leaving)
            for step, case, done in zip_longest(
                source.inner, source.inner_cases(inserted.leaving) if built.language else (), built.inner
            )
        ],
        graphs=graphs,
        generation=source.generation(inserted.leaving) if built.language else None,
        text=source.text_record() if built.text else None,
        preprocess=source.preprocess if source.window is not None else None,
    )


def _reads_sizes(built: Built, done: Inserted) -> bool:
    """Whether attention in the encoder or in the language graphs reads the sizes of its slots."""
    return done.sized or (bool(built.language) and done.merges and done in built.inserted.counted)


def manifest(source: Source, variants: list[Variant], parity: dict[str, Any]) -> Manifest:
    """The manifest of a bundle, to be committed."""
    from ...runtimes.bundle.manifest import Manifest, newest

    return Manifest(
        schema=newest(variant.oldest_schema for variant in variants),
        tokexport=__version__,
        source=source.record(),
        files={},
        variants=variants,
        parity=parity,
        preprocess=source.whole_preprocess,
        processor=source.processor,
        versions=versions(),
    )


def _export(graph: GraphSource, opset: int | None = None) -> ir.Model:
    from ..sources.torch_export import export_graph

    return export_graph(graph) if opset is None else export_graph(graph, opset)


def _language_samples(
    graphs: list[GraphSource], compressed: ir.Model, source: Source
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Inputs of each language graph in float32, by role, computed from real inputs of the encoder."""
    from ...runtimes.images import joined
    from ...runtimes.ort.graph import ort_runner
    from .language import language_runs, language_values

    run = ort_runner(compressed)
    samples: dict[str, list[dict[str, np.ndarray]]] = {}
    encoded = [run(sample) for sample in with_text(source.real_inputs(_RANGE_SAMPLES), compressed, source)]
    for number in range(len(encoded)):
        # Several images, where the graphs take them, are those of the samples behind this one.
        images = [encoded[(number + further) % len(encoded)] for further in range(source.images)]
        values = joined(images) if len(images) > 1 else images[0]
        for graph, fed, _ in language_runs(graphs, language_values(values)):
            samples.setdefault(graph.role, []).append(fed)
    return samples


def versions() -> dict[str, str]:
    """Versions of the installed packages that graphs and measurements depend on."""
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
