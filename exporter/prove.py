"""Proves the graphs of a bundle as they were written, keeps the probes in the bundle, and measures the drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph_passes.compressors import Compressor
from . import probes as probe_file
from .measures import compare

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph_passes.insert import Inserted
    from ..runtimes.writer import BundleWriter
    from .probes import Probe
    from .source import GraphSource, Source

SAMPLES = 3


def prove(
    writer: BundleWriter,
    source: Source,
    models: dict[str, ir.Model],
    language: list[GraphSource],
    inserted: Inserted,
    compressor: Compressor,
    precision: str,
    notes: list[str],
) -> tuple[dict[str, Any], dict[str, float] | None]:
    """Prove the written graphs part by part.

    Args:
        writer: its folder holds the graphs; the probes and parity.json are added to it.
        source: for real inputs and modules.
        models: graphs by role, as they were given to the writer.
        language: the modules of embed, prefill and decode.
        inserted: where the compressor is.
        compressor: with its parameters.
        precision: of the graphs.
        notes: receives what a reader of the proof must know.

    Returns:
        (what parity.json holds, drift end to end or None where there is no module).
    """
    from ..graph_passes.model_io import load_model
    from ..runtimes.ort_graph import ort_runner
    from .parity import check, encoder_probes, language_probes

    written = {role: load_model(writer.folder / f"{role}.onnx") for role in models}
    samples = source.real_inputs(SAMPLES)
    whole = ort_runner(written["encoder"])
    probes = encoder_probes(source.encoder, written["encoder"], inserted, compressor, samples, ort_runner)
    parts = {probe.part for probe in probes}
    if source.encoder.module is None:
        notes.append("a foreign ONNX file: the compressor is proved, head and tail are the file's own")
    elif "head" not in parts:
        notes.append(f"seam {inserted.seam.name} is no boundary of a PyTorch module: only the compressor is proved")
    elif "tail" not in parts:
        notes.append("nothing lies behind the compressor in the encoder: there is no tail to prove")
    if language:
        own = whole(samples[0])
        sizes = own[inserted.outputs["sizes"]]
        values = {"tokens": own["tokens"], "kept_indices": own["kept_indices"], "token_bias": np.log(sizes)}
        probes += language_probes(language, {name: _float32(array) for name, array in values.items()})
    checks = check(probes, written, ort_runner, precision)
    if precision == "fp16":
        notes.append(
            "ONNX Runtime's CPU computes fp16 partly in fp32: this proves types; ranges were checked on the fp32 graph"
        )
    proof = {
        "runtime": "onnxruntime-cpu",
        "precision": precision,
        "samples": SAMPLES,
        "checks": [found.to_json() for found in checks],
        "notes": list(notes),
    }
    probe_file.save(probes, writer.folder / probe_file.FILE)
    content = (writer.folder / probe_file.FILE).read_bytes()
    (writer.folder / probe_file.FILE).unlink()
    writer.add_file(probe_file.FILE, content)
    writer.add_json("parity.json", proof)
    drift = None
    if "head" in parts:
        drift = _drift(source, inserted, compressor, samples, whole, probes)
    return proof, drift


def _drift(
    source: Source,
    inserted: Inserted,
    compressor: Compressor,
    samples: list[dict[str, np.ndarray]],
    run: Any,
    probes: list[Probe],
) -> dict[str, float]:
    """End to end: the graph against PyTorch from the pixels on, where every flip of a pick counts."""
    from ..graph_passes.compressors import Case
    from . import torch_parts
    from .parity import _tensor, _tensors, run_reference

    seam = inserted.seam
    overlaps, cosines = [], []
    assert source.encoder.module is not None
    for sample in samples:
        got = run(sample)
        feeds = _tensors(sample)
        head = torch_parts.head(source.encoder.module, feeds, seam, compressor.signals())
        tokens = head.tokens[:, seam.prefix :]
        case = Case(seam.tokens, seam.dim, inserted.keep, "float32", seam.grid)
        signals = {name: value.numpy() for name, value in head.signals.items()}
        reference = run_reference(compressor, case, tokens.numpy(), signals)
        kept = [set(map(int, row)) for row in reference.kept_indices]
        own = [set(map(int, row)) for row in got[inserted.outputs["kept_indices"]]]
        overlaps += [len(a & b) / inserted.keep for a, b in zip(kept, own)]
        fewer = _tensor(np.concatenate([head.tokens[:, : seam.prefix].numpy(), reference.tokens], 1))
        bias = _tensor(reference.sizes) if inserted.biased else None
        outputs = torch_parts.tail(source.encoder.module, feeds, seam, fewer, bias)
        names = [name for name in got if name not in inserted.outputs.values()]
        found = [compare("drift", name, value.numpy(), got[name], "bf16") for name, value in zip(names, outputs)]
        cosines += [one.cosine for one in found]
    return {"kept_overlap": float(np.mean(overlaps)), "cosine": float(min(cosines))}


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind not in "iu" else array

