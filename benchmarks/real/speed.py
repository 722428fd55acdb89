"""What an encoder of the product takes with half its tokens removed after the first layer, against nothing removed.

    python speed.py [tiny.en|base] [--methods METHOD ...] [--rounds N]

Work is this process's own time on one thread, which other programs disturb little; wall is the clock's, on all cores.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import checkpoint
import numpy as np
import packages
from tokexport import export
from tokexport.exporter.timing import interleaved
from tokexport.runtimes.ort.graph import ort_runner

RESULTS = Path(__file__).parents[1] / "results"
METHODS = ["uniform", "tome", "a_tome", "dpc_knn", "kcenter_merge", "two_scale"]


def encoder(model: str, method: str, *, reuse: bool) -> Path:
    """The file of an encoder; not exported again where one of an earlier run is to be used."""
    folder = packages.FOLDER / f"encoder-{model}-{method}"
    if reuse and folder.is_dir():
        return folder / "encoder.onnx"
    source = str(checkpoint.write(model, packages.FOLDER / f"whisper-{model}"))
    params = {"metric": "tokens"} if method in ("tome", "a_tome") else {}
    export(
        source, folder, method=method, ratio=0.5, seam="encoder_layer:0", params=params, parts="encoder", verify=False
    )
    return folder / "encoder.onnx"


def main() -> None:
    """Export, measure, print, and keep results/real_speed_MODEL.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="tiny.en", choices=checkpoint.MODELS)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--reuse", action="store_true", help="the encoders of an earlier run, where there are any")
    asked = parser.parse_args()
    from tokexport.graph_passes.ir_tools.model_io import load_model

    models = {method: load_model(encoder(asked.model, method, reuse=asked.reuse)) for method in asked.methods}
    sample = {"input_features": np.random.default_rng(0).standard_normal((1, 80, 3000)).astype(np.float32)}
    table: dict[str, dict[str, float]] = {method: {} for method in models}
    for name, threads, clock in (("work", 1, time.process_time), ("wall", None, time.perf_counter)):
        tasks = {}
        for method, model in models.items():
            (given,) = (value.name or "" for value in model.graph.inputs)
            tasks[method] = partial(ort_runner(model, threads), {given: sample["input_features"]})
        taken = interleaved(tasks, asked.rounds, warmup=1, clock=clock)
        for method, milliseconds in taken.items():
            table[method] |= {
                f"{name}_ms": round(milliseconds, 1),
                f"{name}_of_tome": round(milliseconds / taken["tome"], 3),
            }
    for method, row in table.items():
        print(f"{method}: {json.dumps(row)}")
    (RESULTS / f"real_speed_{asked.model}.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
