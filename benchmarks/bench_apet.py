"""A compressor at real size: 576 x 1024 tokens of a CLIP-L/336 tower, K = 86.

Three things are timed in turns in one process: the compressor's node, extracted from the exported graph, and the tower
before it, both in ONNX Runtime; and the compressor's PyTorch reference in eager mode. The tower has random weights, on
which its time does not depend. `--whisper` adds the encoder of Whisper-small, 1500 x 768.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from report import write
from tokexport.exporter.timing import interleaved

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import real_size
import torch
from tokexport.exporter.opening import open_source
from tokexport.exporter.proof.parity import between, run_reference
from tokexport.exporter.sources.torch_export import export_graph
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.ir_tools.model_io import load_model, save_model
from tokexport.graph_passes.seams.find import resolve
from tokexport.runtimes.ort.graph import ort_runner

METHODS = ("apet", "kcenter_merge", "topk")
ROUNDS = 7


def measure(name: str, folder: Path, ratio: float, methods: tuple[str, ...]) -> dict[str, Any]:
    real_size.MODELS[name](folder / name)
    source = open_source(str(folder / name))
    save_model(export_graph(source.encoder), folder / f"{name}.onnx", f"{name}.onnx.data")
    pixels = source.real_inputs(1)[0]
    rows: dict[str, Any] = {}
    for method in methods:
        model = load_model(folder / f"{name}.onnx")
        seam = resolve(model, "encoder_output")
        keep = seam.tokens - int(np.ceil(ratio * seam.tokens))
        compressor = make(method)
        inserted = insert(model, seam, compressor, keep, size_bias=False)
        node = next(node for node in model.graph if node.name == inserted.node_name)
        reads = [value.name or "" for value in node.inputs if value is not None]
        tower = ort_runner(between(model, list(pixels), reads))
        seen = tower(pixels)
        alone = ort_runner(between(model, reads, [value.name or "" for value in node.outputs]))
        case = Case(seam.tokens, seam.dim, keep, grid=seam.grid)
        signals = {signal: seen[value] for signal, value in zip(compressor.signals(), reads[1:])}
        fed = {value: seen[value] for value in reads}
        times = interleaved(
            {
                "tower": lambda run=tower: run(pixels),
                "onnx": lambda run=alone, x=fed: [run(x) for _ in range(5)],
                "reference": lambda c=compressor, k=case, x=seen[reads[0]], s=signals: run_reference(c, k, x, s),
            },
            ROUNDS,
            warmup=1,
            pause=0.5,
        )
        onnx_ms = times["onnx"] / 5
        rows[method] = {
            "tokens": f"{seam.tokens} x {seam.dim} -> {keep}",
            "onnx_ms": round(onnx_ms, 2),
            "reference_ms": round(times["reference"], 2),
            "tower_ms": round(times["tower"], 1),
            "onnx_over_reference": round(onnx_ms / times["reference"], 3),
            "onnx_over_tower": round(onnx_ms / times["tower"], 5),
            "nodes": sum(1 for function in model.functions.values() for _ in function.all_nodes()),
        }
        print(method, rows[method], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=0.85)
    parser.add_argument("--whisper", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as scratch:
        results = {"clip-l-336": measure("llava", Path(scratch), options.ratio, METHODS)}
        if options.whisper:
            results["whisper-small"] = measure("whisper", Path(scratch), options.ratio, METHODS[:2])
    write("apet", results, "python benchmarks/bench_apet.py" + (" --whisper" if options.whisper else ""))


if __name__ == "__main__":
    main()
