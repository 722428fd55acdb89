"""Accuracy of tiny-vlm through its exported graphs in ONNX Runtime, with and without size-aware attention.

The encoder's head is run once on every scene; each method is then a graph of its own behind the same head, followed by
embed, prefill and decode as a bundle holds them. `random` is the mean and deviation over ten seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from report import write
from tokexport.exporter.graphs import encoder
from tokexport.exporter.parity import between
from tokexport.exporter.sources import open_source
from tokexport.exporter.torch_export import export_graph
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insert import insert
from tokexport.graph_passes.seams import resolve
from tokexport.runtimes.bundle import CompressionRecord, SeamRecord, Variant
from tokexport.runtimes.generate import greedy
from tokexport.runtimes.ort_graph import ort_runner

KEPT = (72, 36, 21, 14)
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("uniform", {}),
    ("topk", {"score": "cls_attention"}),
    ("topk", {"score": "norm"}),
    ("topk", {"score": "distance_to_mean"}),
    ("apet", {"merge": False}),
    ("apet", {}),
    ("apet", {"basis_slots": "none"}),
    ("kcenter_merge", {}),
]
SOURCE = open_source("tiny-vlm", parts="all")
MODEL, _ = encoder(SOURCE, "fp32")
SEAM = resolve(MODEL, "encoder_output")


@lru_cache(maxsize=1)
def language(keep: int) -> dict[str, Callable[[Any], dict[str, np.ndarray]]]:
    return {graph.role: ort_runner(export_graph(graph)) for graph in SOURCE.language(keep)}


def variant(method: str, keep: int, size_bias: bool) -> Variant:
    seam = SeamRecord(kind=SEAM.name, graph="encoder", tensor=SEAM.tensor)
    record = CompressionRecord(
        method=method, ratio="0", tokens_in=SEAM.tokens, tokens_out=keep, size_bias=size_bias, seam=seam
    )
    return Variant(name=method, compression=[record], graphs={}, generation=SOURCE.generation(keep))


def accuracy(
    method: str, params: dict[str, Any], keep: int, asked: list[Any], heads: dict[int, Any]
) -> dict[str, float]:
    """Share of right answers without and with log(size) in the attention of the language model."""
    compressor = make(method, params)
    model = MODEL.clone()
    inserted = insert(model, SEAM, compressor, keep)
    node = next(node for node in model.graph if node.name == inserted.node_name)
    read = [value.name for value in node.inputs if value is not None and value.name != node.inputs[0].name]
    tail = ort_runner(between(model, [SEAM.tensor, *read], [value.name for value in model.graph.outputs]))
    run = language(keep)
    right = {"off": 0, "on": 0}
    for image, ids, answer in asked:
        head = heads[image]
        encoded = tail({SEAM.tensor: head[SEAM.tensor], **{name: head[name] for name in read}})
        for bias in ("on", "off") if compressor.method.merges else ("on",):
            said, _, _ = greedy(lambda role, **x: run[role](x), variant(method, keep, bias == "on"), encoded, ids)
            right[bias] += SOURCE_WORDS.detokenize(said) == answer
    shares = {bias: count / len(asked) for bias, count in right.items()}
    return shares if compressor.method.merges else {"on": shares["on"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=10, help="of random")
    options = parser.parse_args()
    questions = SOURCE.questions(options.questions, 0)
    scenes: dict[bytes, int] = {}
    images: list[np.ndarray] = []
    asked = []
    for image, prompt, answer in questions:
        number = scenes.setdefault(image.tobytes(), len(scenes))
        if number == len(images):
            images.append(image)
        asked.append((number, SOURCE_WORDS.prompt(prompt), answer))
    probe = MODEL.clone()
    signal = insert(probe, SEAM, make("topk"), 21)
    node = next(node for node in probe.graph if node.name == signal.node_name)
    names = [SEAM.tensor, node.inputs[1].name]
    head = ort_runner(between(probe, ["pixel_values"], names))
    heads = {i: head({"pixel_values": pixel_values(image[None])}) for i, image in enumerate(images)}

    full = accuracy("uniform", {}, SEAM.tokens, asked, heads)["on"]
    rows: dict[str, Any] = {"uncompressed": round(full, 4)}
    for keep in KEPT:
        for method, params in METHODS:
            started = time.perf_counter()
            shares = accuracy(method, params, keep, asked, heads)
            label = " ".join([method, *(f"{key}={value}" for key, value in params.items())])
            rows.setdefault(label, {})[str(keep)] = {bias: round(share, 4) for bias, share in shares.items()}
            print(f"{label} {keep}: {shares} {time.perf_counter() - started:.0f} s", flush=True)
        seeds = [accuracy("random", {"seed": s}, keep, asked[:512], heads)["on"] for s in range(options.seeds)]
        mean, deviation = round(float(np.mean(seeds)), 4), round(float(np.std(seeds)), 4)
        rows.setdefault("random", {})[str(keep)] = {"on": mean, "deviation": deviation}
        print(f"random {keep}: {mean} +- {deviation}", flush=True)
    results = {"questions": len(asked), "random_seeds": options.seeds, "kept_of": SEAM.tokens, "accuracy": rows}
    write("accuracy", results, f"python benchmarks/bench_accuracy.py --questions {options.questions}")


if __name__ == "__main__":
    from tokexport.exporter.zoo.tiny_vlm.scenes import pixel_values
    from tokexport.exporter.zoo.tiny_vlm.text import WORDS as SOURCE_WORDS

    main()
