"""The graphs of a bundle: exported, typed, compressed, and recorded in the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import GraphError, RequestError
from ..graph_passes.budget import tokens_kept
from ..graph_passes.compressors import OUTPUTS, Compressor

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from ..graph_passes.insert import Inserted
    from ..graph_passes.seam import Seam
    from ..runtimes.bundle import GraphRecord, Manifest, Precision, Role, Variant
    from ..runtimes.writer import BundleWriter
    from .render import Step
    from .source import GraphSource, Source

HALF = {"fp16": "float16", "bf16": "bfloat16"}
_RANGE_SAMPLES = 3
_VERSIONED = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True)
class Plan:
    """What was asked for, in any precision; the fields are the arguments of `pipeline.export`."""

    source: Source
    compressor: Compressor
    ratio: str | float | Fraction | None
    keep: int | None
    seam: str
    parts: str
    size_bias: str

    @property
    def budget(self) -> str:
        """The ratio as it was asked for, or ``keep<K>``."""
        return f"keep{self.keep}" if self.ratio is None else str(self.ratio).strip()

    @property
    def name(self) -> str:
        """Of the variant that is made."""
        return f"{self.compressor.method.name}-{self.budget.replace('/', '_')}"


@dataclass(frozen=True)
class Built:
    """Graphs in one precision.

    Attributes:
        models: by role, in portable form.
        uncompressed: the encoder in the same precision, without the compressor.
        inserted: where the compressor sits in the encoder.
        language: the modules of embed, prefill and decode.
        notes: fp32 islands and what else a reader must know.
    """

    models: dict[Role, ir.Model]
    uncompressed: ir.Model
    inserted: Inserted
    language: list[GraphSource]
    notes: list[str]


def build(plan: Plan, precision: Precision, step: Step, exported: tuple[ir.Model, list[str]] | None = None) -> Built:
    """Export, type and compress the encoder; export the language graphs for the tokens that it keeps.

    Args:
        plan: what was asked for.
        precision: of the graphs.
        step: called with the name of each step.
        exported: what `encoder` gives in this precision, where it is there already.
    """
    if exported is None:
        step("exporting the encoder")
        exported = encoder(plan.source, precision)
    uncompressed, notes = exported[0], [*exported[1]]
    model = uncompressed.clone()
    step(f"inserting {plan.compressor.method.name}")
    inserted = compress(plan, model)
    wanted = plan.source.auto_seam.get(plan.compressor.method.seam, plan.compressor.method.seam)
    if plan.seam == "auto" and inserted.seam.name != wanted:
        notes.append(f"{wanted}, the method's own seam, cannot be used here: {inserted.seam.name} was taken")
    if not plan.compressor.method.plugin:
        notes.append(f"encoder: no plugin form, because {inserted.method} has no TensorRT plugin")
    language = plan.source.language(inserted.keep) if plan.parts == "all" else []
    _check_width(model, inserted, language)
    models: dict[Role, ir.Model] = {"encoder": model}
    samples = _language_samples(language, model, plan.source) if precision == "fp16" and language else {}
    for graph in language:
        step(f"exporting {graph.role}")
        models[graph.role], said = _typed(_export(graph), precision, samples.get(graph.role))
        notes += [f"{graph.role}: {note}" for note in said]
    return Built(models, uncompressed, inserted, language, notes)


def _check_width(model: ir.Model, inserted: Inserted, language: list[GraphSource]) -> None:
    """The language graphs must take tokens of as many channels as the encoder gives."""
    given = next(value for value in model.graph.outputs if value.name not in inserted.outputs.values())
    for graph in language:
        if "tokens" in graph.inputs and given.shape is not None and given.shape[2] != graph.inputs["tokens"].shape[2]:
            raise RequestError(
                f"{inserted.method} at seam {inserted.seam.name} gives tokens of {given.shape[2]} channels, and the "
                f"{graph.role} graph takes {graph.inputs['tokens'].shape[2]}",
                fix="Leave --seam out, or export --parts encoder for a language model that takes them.",
            )


def encoder(source: Source, precision: str) -> tuple[ir.Model, list[str]]:
    """The uncompressed encoder in `precision`, and what a reader must know of it.

    Half precision comes before the compressor, so that its body is built for the type it will see.
    """
    fixed: list[str] = []
    if source.model_path is None:
        model = _export(source.encoder)
    else:
        from ..graph_passes.model_io import load_model

        model = load_model(source.model_path)
        fixed = _fix_batch(model)
    samples = source.real_inputs(_RANGE_SAMPLES) if precision == "fp16" else None
    model, notes = _typed(model, precision, samples)
    return model, [*fixed, *notes]


def compress(plan: Plan, model: ir.Model) -> Inserted:
    """Insert the compressor into `model` where it was asked for, or where its paper puts it in this family."""
    from ..graph_passes.insert import insert

    found, kept = place(plan, model)
    return insert(model, found, plan.compressor, kept, size_bias=plan.size_bias == "auto")


def place(plan: Plan, model: ir.Model) -> tuple[Seam, int]:
    """Where in `model` the compressor goes, and how many tokens it keeps there."""
    from ..graph_passes.seams import resolve

    method = plan.compressor.method
    found = resolve(model, plan.seam, plan.source.auto_seam.get(method.seam, method.seam))
    return found, tokens_kept(found.tokens, ratio=plan.ratio, keep=plan.keep)


def write(writer: BundleWriter, plan: Plan, built: Built, precision: Precision, *, first: bool = True) -> Variant:
    """Add every graph to the bundle, under plain names those of its first variant; returns the manifest's entry."""
    from ..runtimes.bundle import CompressionRecord, SeamRecord, Variant

    source, inserted, models = plan.source, built.inserted, built.models
    graphs: dict[Role, GraphRecord] = {}
    for role, model in models.items():
        # embed, prefill and decode read the same weights: one file holds them once.
        data = None if role == "encoder" else "language.onnx.data"
        graphs[role] = writer.add_graph(
            role,
            model,
            _roles(source, role, model, inserted),
            precision,
            variant="" if first else plan.name,
            data=data,
        )
    seam = inserted.seam
    biased = bool(inserted.biased or (plan.compressor.method.merges and built.language))
    record = CompressionRecord(
        method=inserted.method,
        params=inserted.params,
        ratio=plan.budget if plan.keep is None else str(1 - Fraction(inserted.keep, seam.tokens)),
        tokens_in=seam.tokens,
        tokens_out=inserted.keep,
        size_bias=plan.size_bias == "auto" and biased,
        seam=SeamRecord(
            kind=seam.name,
            graph="encoder",
            tensor=seam.tensor,
            grid=list(seam.grid) if seam.grid else None,
            prefix=seam.prefix,
        ),
    )
    return Variant(
        name=plan.name,
        compression=[record],
        graphs=graphs,
        generation=source.generation(inserted.keep) if built.language else None,
    )


def manifest(source: Source, variants: list[Variant], parity: dict[str, Any]) -> Manifest:
    """The manifest of a bundle, to be committed."""
    from ..runtimes.bundle import Manifest

    return Manifest(
        tokexport=__version__,
        source=source.record(),
        files={},
        variants=variants,
        parity=parity,
        preprocess=source.preprocess,
        processor=source.processor,
        versions=versions(),
    )


def _export(graph: GraphSource) -> ir.Model:
    from .torch_export import export_graph

    return export_graph(graph)


def _typed(
    model: ir.Model, precision: str, samples: list[dict[str, np.ndarray]] | None = None
) -> tuple[ir.Model, list[str]]:
    """`model` in `precision`; real inputs `samples` say which of its sums float16 cannot hold."""
    if precision not in HALF:
        return model, []
    from ..graph_passes.precision import to_half
    from ..graph_passes.ranges import find_islands

    islands = find_islands(model, samples) if samples else {}
    report = to_half(model, HALF[precision], islands, typed_io=_typed_io(model))  # type: ignore[arg-type]
    notes = [f"fp32 island {name}: {why}" for name, why in islands.items()]
    kept = len(report.islands) - len(islands)
    return model, [*notes, f"{report.nodes} nodes compute in {precision}, {kept} by their kind in fp32"]


def _language_samples(
    graphs: list[GraphSource], compressed: ir.Model, source: Source
) -> dict[str, list[dict[str, np.ndarray]]]:
    """What really reaches each language graph, in float32, by role: made from the encoder's own tokens."""
    from ..runtimes.ort_graph import ort_runner
    from .parity import language_probes, language_values

    run = ort_runner(compressed)
    samples: dict[str, list[dict[str, np.ndarray]]] = {}
    for sample in source.real_inputs(_RANGE_SAMPLES):
        for probe in language_probes(graphs, language_values(run(sample))):
            samples.setdefault(probe.role, []).append(probe.inputs)
    return samples


def _roles(source: Source, role: str, model: ir.Model, inserted: Inserted) -> tuple[dict[str, str], dict[str, str]]:
    """Role -> tensor name, of inputs and outputs. A foreign file keeps its names: its first output is the tokens."""
    given = [value.name or "" for value in model.graph.inputs if value.name not in model.graph.initializers]
    outputs = {value.name or "": value.name or "" for value in model.graph.outputs}
    if role == "encoder" and source.model_path is not None and "tokens" not in outputs:
        first = next(name for name in outputs if name not in inserted.outputs.values())
        outputs = {"tokens": first, **{role: name for role, name in outputs.items() if name != first}}
    if role == "encoder":
        renamed = {name: role for role, name in inserted.outputs.items() if role in OUTPUTS}
        outputs = {renamed.get(key, key): name for key, name in outputs.items()}
    return {name: name for name in given}, outputs


def _typed_io(model: ir.Model) -> list[str]:
    """What one half-precision graph hands to the next: tokens, embeddings and the KV caches."""
    caches = ("past_", "present_", "cross_")
    ends = [value.name or "" for value in (*model.graph.inputs, *model.graph.outputs)]
    return [name for name in ends if name in ("tokens", "inputs_embeds") or name.startswith(caches)]


def _fix_batch(model: ir.Model) -> list[str]:
    """A bundle's shapes are static: a batch of a foreign file that is dynamic becomes 1; returns a note on each."""
    import onnx_ir as ir

    from ..graph_passes.walk import infer_missing_shapes

    notes = []
    for value in model.graph.inputs:
        shape = value.shape
        if shape is None or not len(shape) or isinstance(shape[0], int):
            continue
        if any(not isinstance(axis, int) for axis in shape[1:]):
            raise GraphError(
                f"input {value.name} has dynamic axes beside the batch: {shape}",
                fix="Export it again with static shapes.",
            )
        value.shape = ir.Shape([1, *list(shape)[1:]])
        notes.append(f"the batch of input {value.name} was dynamic ({shape[0]}) and is 1 now")
        for node in model.graph:
            for output in node.outputs:
                output.shape = None
    infer_missing_shapes(model)
    return notes


def versions() -> dict[str, str]:
    """Of the installed packages that graphs and figures depend on."""
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
