"""What every benchmark shares: fair timing of two things side by side, and a JSON file that says where it ran."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("tokexport", "onnxruntime", "torch", "onnx", "onnx-ir", "numpy", "onnxslim", "onnxsim")


def interleaved(
    tasks: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 3, pause: float = 0.0
) -> dict[str, float]:
    """Median milliseconds of each task. They take turns, so that a busy machine disturbs all of them alike.

    `pause` is seconds of rest before each turn: threads of the task before, which wait by spinning, leave the cores.
    """
    for task in tasks.values():
        for _ in range(warmup):
            task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            time.sleep(pause)
            start = time.perf_counter()
            task()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(values) for name, values in times.items()}


def write(name: str, results: Any, command: str) -> None:
    """Write results/<name>.json beside the machine, the versions and the command, and print it."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    record = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": versions,
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(record, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
