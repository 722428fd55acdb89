"""A cmake that builds in no time: what ours says when it looks around, and a library of two plugins that gcc makes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = """
const char* tokexport_message(int status) { return "toy"; }
const char* tokexport_architectures(void) { return "{architectures}"; }
const char* tokexport_plugin_names(void) { return "TokexportTopk TokexportApet"; }
"""
CONFIGURE = """
echo "-- The CXX compiler identification is GNU 12.2.0"
echo "-- The CUDA compiler identification is NVIDIA 13.0.88"
echo "-- CUDA architectures: 87-real"
echo "-- TensorRT 10.3.0 headers: /usr/include"
"""
BUILD = """
echo "[ 50%] Building CUDA object CMakeFiles/k.dir/kernels/apet.cu.o"
cp {library} "$2/libtokexport_plugins.so"; cp {library} "$2/libtokexport_kernels.so"
"""


def library(folder: Path, architectures: str = "87-real") -> Path:
    """A library that says it has TokexportApet and TokexportTopk, compiled for these GPUs."""
    if shutil.which("gcc") is None:
        pytest.skip("toy plugin library: there is no gcc")
    (folder / "toy.c").write_text(SOURCE.replace("{architectures}", architectures))
    subprocess.run(["gcc", "-shared", "-fPIC", "toy.c", "-o", "toy.so"], cwd=folder, check=True)
    return folder / "toy.so"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, configure: str = CONFIGURE, build: str = BUILD) -> Path:
    """Put a cmake on the path that does this, note its calls in calls.txt, and keep builds in `folder`."""
    made = folder / "toy.so"
    made = made if made.exists() else library(folder)
    script = f'#!/bin/sh\necho "$@" >> {folder}/calls.txt\nif [ "$1" = -S ]; then\n:{configure}\nelse\n:{build}\nfi\n'
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "cmake"
    program.write_text(script.replace("{library}", str(made)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.delenv("TOKEXPORT_PLUGINS", raising=False)
    return folder / "calls.txt"
