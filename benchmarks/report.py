"""What every benchmark shares: a JSON file that records machine and versions."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from tokexport.exporter.evaluate.machine import machine

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "tokexport",
    "onnxruntime",
    "torch",
    "transformers",
    "triton",
    "onnx",
    "onnx-ir",
    "numpy",
    "onnxslim",
    "onnxsim",
    "tensorrt-rtx",
)


def known(name: str) -> dict[str, Any]:
    """The results of a report that was saved before; empty where there is none."""
    file = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text())["results"] if file.is_file() else {}
    return found


def gained(gains: np.ndarray, units: np.ndarray, of: np.ndarray) -> tuple[float, float]:
    """The mean of what questions gained, by unit, and its standard error.

    Args:
        gains: [Q].
        units: [Q], what is counted in each.
        of: [Q] int64, the input of each: questions about one are not independent.
    """
    better, share = np.bincount(of, gains), np.bincount(of, units)
    mean = better.sum() / share.sum()
    off = better - mean * share
    return float(mean), float(np.sqrt(np.square(off).sum()) / share.sum())


def write(name: str, results: Any, command: str) -> None:
    """`save` a report, and print it."""
    print(save(name, results, command))


def save(name: str, results: Any, command: str) -> str:
    """Write results/<name>.json beside the machine, the versions and the command; returns its text."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    record = {
        "command": command,
        **machine(),
        "versions": versions,
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(record, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    return text
