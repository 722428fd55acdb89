"""Proves the graphs of a bundle as they were written, keeps the probes in the bundle, and measures the drift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GraphError
from ..graph_passes.compressors import Compressor
from . import probes as probe_file
from .measures import compare
from .texts import with_text

if TYPE_CHECKING:
    from ..graph_passes.insert import Inserted
    from ..runtimes.bundle import Variant
    from ..runtimes.writer import BundleWriter
    from .graphs import Built, Plan
    from .probes import Probe
    from .source import Source

SAMPLES = 3

# (input by role, outputs by the graph's names) of one run of the whole encoder.
Encoded = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Proved:
    """The proof of one variant.

    Attributes:
        record: what parity.json holds of it.
        drift: end to end; None where there is no module.
        encoded: what the encoder made of each input.
        probes: what was compared.
    """

    record: dict[str, Any]
    drift: dict[str, float] | None
    encoded: list[Encoded]
    probes: list[Probe]


def prove(folder: Path, variant: Variant, plan: Plan, built: Built, precision: str, notes: list[str]) -> Proved:
    """Prove the written graphs of a variant part by part.

    Args:
        folder: where they were written.
        variant: names their files.
        plan: for the source, its real inputs and its modules.
        built: the graphs as they were written; for bf16, their twins in fp32.
        precision: of the bundle.
        notes: receives what a reader of the proof must know.
    """
    from ..graph_passes.model_io import load_model
    from ..runtimes.ort_graph import ort_runner
    from .parity import check, encoder_probes, language_probes, language_values

    source, inserted = plan.source, built.inserted
    models = built.models
    files = {role: folder / graph.forms["portable"] for role, graph in variant.graphs.items()}
    if precision == "bf16":
        _check_types(files.values())
    else:
        models = {role: load_model(file) for role, file in files.items()}
    samples = with_text(source.real_inputs(SAMPLES), models["encoder"])
    whole = ort_runner(models["encoder"])
    encoded = [(sample, whole(sample)) for sample in samples]
    probes = encoder_probes(source.encoder, models["encoder"], inserted, plan.compressor, samples, ort_runner)
    parts = {probe.part for probe in probes}
    if built.language:
        probes += language_probes(built.language, language_values(encoded[0][1]))
    checks = check(probes, models, ort_runner, "fp32" if precision == "bf16" else precision)
    notes += _remarks(source, inserted, parts, precision)
    if plan.compressor.method.merges and plan.size_bias == "auto" and not (built.language or inserted.biased):
        notes.append(
            "merged tokens keep their weight only if log(sizes) is added to the attention of your language model"
        )
    proof = {
        "runtime": "onnxruntime-cpu",
        "precision": precision,
        "samples": SAMPLES,
        "checks": [found.to_json() for found in checks],
        "notes": list(notes),
    }
    drift = _drift(source, inserted, plan.compressor, encoded) if "head" in parts else None
    return Proved(proof, drift, encoded, probes)


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
    """Where a graph cannot be run, the ONNX checker still proves its types and shapes."""
    import onnx

    for file in files:
        try:
            onnx.checker.check_model(str(file), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise GraphError(
                f"the typed graph is not valid: {str(error).strip().splitlines()[0]}",
                where=file.name,
                fix="Try --precision fp32 or fp16, and report this.",
            ) from error


def _remarks(source: Source, inserted: Inserted, parts: set[str], precision: str) -> list[str]:
    remarks = []
    if source.encoder.module is None:
        but = f", but for the size bias in {len(inserted.biased)} attentions" if inserted.biased else ""
        remarks.append(f"a foreign ONNX file: the compressor is proved, head and tail are the file's own{but}")
    elif "head" not in parts:
        remarks.append(f"seam {inserted.seam.name} is no boundary of a PyTorch module: only the compressor is proved")
    elif "tail" not in parts:
        remarks.append("nothing lies behind the compressor in the encoder: there is no tail to prove")
    if precision == "fp16":
        remarks.append(
            "ONNX Runtime's CPU computes fp16 partly in fp32: this proves types; ranges were checked on the fp32 graph"
        )
    if precision == "bf16":
        remarks.append(
            "ONNX Runtime's CPU cannot run bf16: these are checks of the same graphs in fp32; of the bf16 graphs the "
            "types and shapes were checked, their values were not"
        )
    return remarks


def _drift(source: Source, inserted: Inserted, compressor: Compressor, encoded: list[Encoded]) -> dict[str, float]:
    """End to end: the graph against PyTorch from the pixels on, where every flip of a pick counts."""
    from ..graph_passes.compressors import Case
    from ..graph_passes.compressors.texts import TEXT
    from . import torch_parts
    from .arrays import to_tensor, to_tensors
    from .parity import run_reference

    seam = inserted.seam
    overlaps, cosines = [], []
    assert source.encoder.module is not None
    for sample, got in encoded:
        feeds = to_tensors({name: sample[name] for name in source.encoder.inputs})
        beside = {name: sample[name] for name in compressor.signals() if name == TEXT}
        known = tuple(name for name in compressor.signals() if name not in beside)
        head = torch_parts.head(source.encoder.module, feeds, seam, known)
        tokens = head.tokens[:, seam.prefix :]
        case = Case(seam.tokens, seam.dim, inserted.keep, "float32", seam.grid)
        signals = {name: value.numpy() for name, value in head.signals.items()}
        reference = run_reference(compressor, case, tokens.numpy(), signals | beside)
        kept = [set(map(int, row)) for row in reference.kept_indices]
        own = [set(map(int, row)) for row in got[inserted.outputs["kept_indices"]]]
        overlaps += [len(a & b) / inserted.keep for a, b in zip(kept, own)]
        first = [head.tokens[:, : seam.prefix].numpy()] if seam.prefix else []
        fewer = to_tensor(np.concatenate([*first, reference.tokens], 1))
        bias = to_tensor(reference.sizes) if inserted.biased else None
        outputs = torch_parts.tail(source.encoder.module, feeds, seam, fewer, bias)
        names = [name for name in got if name not in inserted.outputs.values()]
        found = [compare("drift", name, value.numpy(), got[name], "bf16") for name, value in zip(names, outputs)]
        cosines += [one.cosine for one in found]
    return {"kept_overlap": float(np.mean(overlaps)), "cosine": float(min(cosines))}
