"""Builds of the kernels: by nvcc for a GPU, by g++ to run on the CPU (see emulation/cuda_runtime.h).

A build is kept in build/ under the hash of what went into it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
PLUGINS = ROOT / "plugins"
KERNELS = PLUGINS / "kernels"
EMULATION = TESTS / "emulation"
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")

_GPP = ("g++", "-std=c++17", "-O1", "-g", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")


def build_emulated(*flags: str) -> Path:
    """The library that runs on the CPU."""
    sources = [*sorted(KERNELS.glob("*.cu")), EMULATION / "fibers.cpp"]
    inputs = [*sources, *KERNELS.glob("*.cuh"), *KERNELS.glob("*.h"), *EMULATION.glob("*.h")]
    command = (*_GPP, *flags, f"-I{EMULATION}", f"-I{KERNELS}")

    def build(folder: Path) -> Path:
        objects = [folder / f"{source.name}.o" for source in sources]
        for source, made in zip(sources, objects):
            run(*command, "-x", "c++", "-c", source, "-o", made)
        library = folder / "libtokexport_kernels_emulated.so"
        run("g++", "-shared", *flags, *objects, "-o", library)
        return library

    return kept("emulated", inputs, command, build)


def build_for_gpu(architecture: str) -> Path:
    """The library that runs on GPUs of one architecture ("87", or "native"), by the project's own CMake."""
    cmake = [PLUGINS / "CMakeLists.txt", PLUGINS / "tensorrt" / "headers.cmake"]
    inputs = [*cmake, *(path for path in KERNELS.iterdir() if path.is_file())]
    configure = (
        "cmake",
        "-S",
        PLUGINS,
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture}",
        f"-DCMAKE_CUDA_COMPILER={nvcc()}",
    )

    def build(folder: Path) -> Path:
        run(*configure, "-B", folder)
        target = ("--target", "tokexport_kernels")
        run("cmake", "--build", folder, *target, "--parallel", min(8, os.cpu_count() or 1))
        return folder / "libtokexport_kernels.so"

    return kept("gpu", inputs, configure, build)


def nvcc() -> str | None:
    """The CUDA compiler of this machine: on the path, or where NVIDIA's installer puts it."""
    usual = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    return shutil.which("nvcc") or (str(usual) if usual.exists() else None)


def run(*command: object) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def kept(kind: str, inputs: list[Path], command: tuple[object, ...], build) -> Path:
    """The library that `build(folder)` makes, made once for the same command, compiler and bytes of the inputs."""
    digest = hashlib.sha256(repr([str(part) for part in command]).encode() + run(_GPP[0], "--version").encode())
    for path in sorted(inputs):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    library = ROOT / "build" / "test-kernels" / f"{kind}-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            Path(shutil.copy(build(Path(folder)), library.with_suffix(f".{os.getpid()}"))).replace(library)
    return library
