"""The graphs of a bundle: exported, typed, compressed, and recorded in the manifest."""

from __future__ import annotations

from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import GraphError
from ..graph_passes.budget import tokens_kept
from ..graph_passes.compressors import OUTPUTS, Compressor, make

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph_passes.insert import Inserted
    from ..runtimes.bundle import Manifest
    from ..runtimes.writer import BundleWriter
    from .source import GraphSource, Source

HALF = {"fp16": "float16", "bf16": "bfloat16"}
_RANGE_SAMPLES = 3
_VERSIONED = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


def encoder(source: Source, precision: str) -> ir.Model:
    """The uncompressed encoder in `precision`; what a reader must know of it is in ``model.meta["notes"]``.

    Half precision comes before the compressor, so that its body is built for the type it will see.
    """
    from ..graph_passes.model_io import load_model

    if source.model_path is not None:
        model = load_model(source.model_path)
        _fix_batch(model)
    else:
        from .torch_export import export_graph

        model = export_graph(source.encoder)
    model.meta["notes"] = []
    if precision in HALF:
        from ..graph_passes.precision import to_half
        from ..graph_passes.ranges import find_islands

        islands = find_islands(model, source.real_inputs(_RANGE_SAMPLES)) if precision == "fp16" else {}
        report = to_half(model, HALF[precision], islands, typed_io=_typed_io(model))  # type: ignore[arg-type]
        model.meta["notes"] += [f"fp32 island {name}: {why}" for name, why in islands.items()]
        kept = len(report.islands) - len(islands)
        model.meta["notes"].append(f"{report.nodes} nodes compute in {precision}, {kept} by their kind in fp32")
    return model


def language(graph: GraphSource, precision: str) -> ir.Model:
    """embed, prefill or decode in `precision`."""
    from .torch_export import export_graph

    model = export_graph(graph)
    if precision in HALF:
        from ..graph_passes.precision import to_half

        to_half(model, HALF[precision], typed_io=_typed_io(model))  # type: ignore[arg-type]
    return model


def compress(
    source: Source,
    model: ir.Model,
    compressor: Compressor,
    *,
    ratio: str | float | Fraction | None,
    keep: int | None,
    seam: str,
    size_bias: str,
) -> Inserted:
    """Insert the compressor into `model` where it was asked for, or where its paper puts it in this family."""
    from ..graph_passes.insert import insert
    from ..graph_passes.seams import resolve

    paper = source.auto_seam.get(compressor.method.seam, compressor.method.seam)
    found = resolve(model, seam, paper)
    kept = tokens_kept(found.tokens, ratio=ratio, keep=keep)
    return insert(model, found, compressor, kept, size_bias=size_bias == "auto" and source.model_path is None)


def write(
    writer: BundleWriter,
    source: Source,
    models: dict[str, ir.Model],
    inserted: Inserted,
    budget: str,
    precision: str,
    size_bias: str,
) -> Manifest:
    """Add every graph and file to the bundle; returns its manifest, to be committed."""
    from ..runtimes.bundle import CompressionRecord, Manifest, SeamRecord, Variant

    graphs: Any = {}
    for role, model in models.items():
        # embed, prefill and decode read the same weights: one file holds them once.
        data = None if role == "encoder" else "language.onnx.data"
        roles = _roles(source, role, model, inserted)
        graphs[role] = writer.add_graph(role, model, roles, precision, data=data)  # type: ignore[arg-type]
    for path, content in source.processor_files.items():
        writer.add_file(path, content)
    seam = inserted.seam
    merges = make(inserted.method, inserted.params).method.merges
    record = CompressionRecord(
        method=inserted.method,
        params=inserted.params,
        ratio=budget if not budget.startswith("keep") else str(1 - Fraction(inserted.keep, seam.tokens)),
        tokens_in=seam.tokens,
        tokens_out=inserted.keep,
        size_bias=size_bias == "auto" and bool(inserted.biased or (merges and len(models) > 1)),
        seam=SeamRecord(
            kind=seam.name,
            graph="encoder",
            tensor=seam.tensor,
            grid=list(seam.grid) if seam.grid else None,
            prefix=seam.prefix,
        ),
    )
    variant = Variant(
        name=f"{inserted.method}-{budget.replace('/', '_')}",
        compression=[record],
        graphs=graphs,
        generation=source.generation(inserted.keep) if len(models) > 1 else None,
    )
    return Manifest(
        tokexport=__version__,
        source=source.record(),
        files={},
        variants=[variant],
        preprocess=source.preprocess,
        processor=source.processor,
        versions=_versions(),
    )


def _roles(source: Source, role: str, model: ir.Model, inserted: Inserted) -> tuple[dict[str, str], dict[str, str]]:
    """Role -> tensor name, of inputs and outputs. A foreign file keeps its names: its first output is the tokens."""
    given = {value.name or "" for value in model.graph.inputs if value.name not in model.graph.initializers}
    outputs = {value.name or "": value.name or "" for value in model.graph.outputs}
    if role == "encoder" and source.model_path is not None and "tokens" not in outputs:
        first = next(name for name in outputs if name not in inserted.outputs.values())
        outputs = {"tokens": first, **{role: name for role, name in outputs.items() if name != first}}
    if role == "encoder":
        renamed = {name: role for role, name in inserted.outputs.items() if role in OUTPUTS}
        outputs = {renamed.get(key, key): name for key, name in outputs.items()}
    return {name: name for name in given}, outputs


def _typed_io(model: ir.Model) -> list[str]:
    """What one half-precision graph hands to the next: tokens, embeddings and the KV cache."""
    ends = [value.name or "" for value in (*model.graph.inputs, *model.graph.outputs)]
    return [name for name in ends if name in ("tokens", "inputs_embeds") or name.startswith(("past_", "present_"))]


def _fix_batch(model: ir.Model) -> None:
    """A bundle's shapes are static: where only the batch of a foreign file is dynamic, it becomes 1."""
    import onnx_ir as ir

    from ..graph_passes.walk import infer_missing_shapes

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
        for node in model.graph:
            for output in node.outputs:
                output.shape = None
    infer_missing_shapes(model)


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
