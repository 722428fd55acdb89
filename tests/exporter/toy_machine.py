"""A machine of any kind: a workstation that has everything, changed where a test says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tokexport.exporter.doctor.machine import Machine, Ran

REQUIRES = (
    "click>=8.1",
    "numpy>=1.26",
    "onnx>=1.18",
    "tomli>=2.0; python_version < '3.11'",
    'torch>=2.9; extra == "export"',
    'transformers>=5.0; extra == "export"',
    'onnxruntime>=1.20; extra == "ort"',
    'tensorrt-rtx>=1.7; extra == "rtx"',
)
PACKAGES = {
    "click": "8.1.7",
    "numpy": "2.1.0",
    "onnx": "1.19.0",
    "torch": "2.9.1+cu128",
    "transformers": "5.1.0",
    "onnxruntime-gpu": "1.23.0",
    "tensorrt-rtx": "1.7.1",
}
SMI = "| NVIDIA-SMI 580.95.05   Driver Version: 580.95.05   CUDA Version: 13.0 |"
GPU = "NVIDIA GeForce RTX 4090, 580.95.05, 8.9"
JETSON = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
# What a child process says, by a word of the code that it is given.
CHILDREN = {
    "InferenceSession": Ran(0, '["1.23.0", ["CUDAExecutionProvider", "CPUExecutionProvider"]]\n'),
    "require(": Ran(0, ""),
    "import tensorrt_rtx": Ran(0, "1.7.1\n"),
    "import tensorrt;": Ran(0, "10.14.1\n"),
    "plugins import found": Ran(
        0, '{"gpu": null, "library": null, "versions": {"tensorrt": "10.14.1", "tensorrt-rtx": "1.7.1"}}\n'
    ),
    "library.find": Ran(0, "/cache/libtokexport_plugins.so\nTokexportApet, TokexportTopk\n"),
    "run_module": Ran(0, "No broken requirements found.\n"),
    "importlib": Ran(0, "done\n"),
}
COMMANDS = {"--query-gpu": Ran(0, GPU), "nvidia-smi": Ran(0, SMI), "nvcc": Ran(0, "release 13.0, V13.0.88")}


def machine(
    *,
    packages: dict[str, str | None] | None = None,
    children: dict[str, Ran] | None = None,
    commands: dict[str, Ran] | None = None,
    files: dict[str, str] | None = None,
    programs: Sequence[str] = ("nvidia-smi", "nvcc", "espeak-ng"),
    **facts: Any,
) -> Machine:
    """The workstation, but for what is given; a package of version None is not there."""
    installed = {**PACKAGES, **(packages or {})}
    made = Machine(
        python=(3, 12, 3),
        system="Linux",
        arch="x86_64",
        packages={name: version for name, version in installed.items() if version is not None},
        requires=REQUIRES,
        cores=8,
        memory=(64 << 30, 48 << 30),
        disk=200 << 30,
        read=(files or {}).get,
        which=lambda name: name if name in programs else None,
        run=lambda command: _first(" ".join(command), {**COMMANDS, **(commands or {})}),
        python_runs=lambda code: _first(code, {**CHILDREN, **(children or {})}),
    )
    return dataclasses.replace(made, **facts)


def jetson(release: str = JETSON, **changes: Any) -> Machine:
    """An Orin with JetPack 6.2 and no nvidia-smi that says anything."""
    packages = {"torch": None, "transformers": None, "onnxruntime-gpu": None, "tensorrt-rtx": None}
    changes.setdefault("packages", packages)
    changes.setdefault("programs", ("tegrastats", "/usr/local/cuda/bin/nvcc"))
    changes.setdefault("children", {"import tensorrt;": Ran(0, "10.3.0\n")})
    files = {"/etc/nv_tegra_release": release, **changes.pop("files", {})}
    return machine(files=files, arch="aarch64", python=(3, 10, 12), **changes)


def raising(error: BaseException) -> Callable[[Any], Any]:
    """A way to look that fails."""

    def look(what: Any) -> Any:
        raise error

    return look


def _first(text: str, answers: dict[str, Ran]) -> Ran:
    return next((ran for word, ran in answers.items() if word in text), Ran(None))
