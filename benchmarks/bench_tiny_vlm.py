"""tiny-vlm in ONNX Runtime: the time that compression saves in encoder, prefill and decode, by share of tokens.

All bundles run in turns in one process on one thread; ratios are to the uncompressed one (K = N).
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from report import write
from tokexport.exporter.opening import open_source
from tokexport.exporter.pipeline import export
from tokexport.exporter.timing import interleaved
from tokexport.runtimes.load import load
from tokexport.runtimes.session import Session

N = 144
KEPT = (72, 36, 21, 14)
ROUNDS = 60


def feeds(session: Session, role: str, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Zeros of the right shapes: the time of these graphs does not depend on the values."""
    record = session.bundle.graph(role)
    arrays = {name: np.zeros(tensor.shape, tensor.dtype) for name, tensor in record.inputs.items()}
    return {**arrays, "pixel_values": pixels} if role == "encoder" else arrays


def main() -> None:
    pixels = open_source("tiny-vlm").real_inputs(1)[0]["pixel_values"]
    with tempfile.TemporaryDirectory() as scratch:
        sessions = {}
        for keep in (N, *KEPT):
            for method in ("uniform",) if keep == N else ("apet", "kcenter_merge"):
                name = "uncompressed" if keep == N else f"{method} {keep}"
                export("tiny-vlm", Path(scratch) / name, method=method, keep=keep, verify=False)
                sessions[name] = load(Path(scratch) / name, threads=1)
        tasks = {
            f"{name}/{role}": partial(session.run, role, **feeds(session, role, pixels))
            for name, session in sessions.items()
            for role in ("encoder", "prefill", "decode")
        }
        times = interleaved(tasks, ROUNDS)
    base = {role: times[f"uncompressed/{role}"] for role in ("encoder", "prefill", "decode")}
    rows = {}
    for name in sessions:
        keep = N if name == "uncompressed" else int(name.split()[1])
        row: dict[str, float] = {"share_of_tokens": round(keep / N, 4)}
        for role, unit in base.items():
            row[f"{role}_ms"] = round(times[f"{name}/{role}"], 3)
            row[f"{role}_speedup"] = round(unit / times[f"{name}/{role}"], 2)
        rows[name] = row
    write("tiny_vlm", rows, "python benchmarks/bench_tiny_vlm.py")


if __name__ == "__main__":
    main()
