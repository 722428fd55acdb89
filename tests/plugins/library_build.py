"""The plugin library for the CPU: plugins/tensorrt compiled by g++ against TensorRT's headers, on the emulated kernels.

The headers are not part of the project: TENSORRT_INCLUDE_DIR names their folder, or a package has put them in place.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from kernel_build import EMULATION, KERNELS, PLUGINS, TESTS, build_emulated, kept, run

TENSORRT = PLUGINS / "tensorrt"
_USUAL = ("/usr/include/aarch64-linux-gnu", "/usr/include/x86_64-linux-gnu", "/usr/local/tensorrt/include")
_FLAGS = ("-std=c++17", "-O0", "-g", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations")


def headers() -> Path | None:
    """The folder of TensorRT's headers on this machine."""
    given = os.environ.get("TENSORRT_INCLUDE_DIR")
    folders = [Path(given)] if given else [Path(folder) for folder in _USUAL]
    return next((folder for folder in folders if (folder / "NvInferRuntime.h").is_file()), None)


def need_headers() -> Path:
    """The same; a test that needs them is skipped where there are none."""
    found = headers()
    if found is None:
        pytest.skip("plugin library: there are no TensorRT headers (TENSORRT_INCLUDE_DIR)")
    if shutil.which("g++") is None:
        pytest.skip("plugin library: there is no g++")
    return found


def build_library(include: Path) -> Path:
    """The plugins and the emulated kernels as one library."""
    sources = sorted(TENSORRT.glob("*.cpp"))
    kernels = build_emulated()

    def build(folder: Path) -> Path:
        objects = [folder / f"{source.parent.name}-{source.name}.o" for source in sources]
        for source, made in zip(sources, objects):
            run(*_compiler(include), "-fvisibility=hidden", f"-I{KERNELS}", "-c", source, "-o", made)
        library = folder / "libtokexport_plugins_emulated.so"
        run("g++", "-shared", *objects, kernels, "-Wl,-z,nodelete,-z,defs", "-ldl", "-o", library)
        return library

    inputs = [*sources, *TENSORRT.glob("*.h"), *KERNELS.glob("*.h"), include / "NvInferVersion.h", kernels]
    return kept("libtokexport_plugins", inputs, _compiler(include), build)


def build_host(include: Path) -> Path:
    """plugin_host.cpp, by a name that the plugin library takes for TensorRT's."""
    source = TESTS / "plugin_host.cpp"

    def build(folder: Path) -> Path:
        library = folder / "libnvinfer_host.so"
        run(*_compiler(include), "-shared", source, "-ldl", "-o", library)
        return library

    return kept("libnvinfer_host", [source, include / "NvInferVersion.h"], _compiler(include), build)


def _compiler(include: Path) -> tuple[object, ...]:
    return ("g++", *_FLAGS, f"-I{EMULATION}", "-isystem", include)
