"""What every benchmark shares: a JSON file that records machine and versions."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
