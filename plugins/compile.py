"""CMake runs of the plugin library: configure, compile, and what goes wrong in one sentence."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from ..errors import MissingError, RequestError

SOURCES = Path(__file__).parent
Step = Callable[[str], None]

# What the project's CMake files and CMake itself say of what they found.
_FACTS = {
    "architectures": r"^-- CUDA architectures: (.+)$",
    "cuda": r"^-- The CUDA compiler identification is (.+)$",
    "cxx": r"^-- The CXX compiler identification is (.+)$",
    "tensorrt": r"^-- TensorRT ([\d.]+) headers",
}
# As CMake spells them. It takes an empty list as not given, and would compile for all.
_ARCHITECTURES = re.compile(r"native|all|\d+[a-z]?(-real|-virtual)?(;\d+[a-z]?(-real|-virtual)?)*")
_HEADER = "NvInferRuntime.h"
_NO_COMPILER = re.compile(r"CMAKE_(CXX_COMPILER|MAKE_PROGRAM) (is )?not set|No CMAKE_CXX_COMPILER could be found")
_OPTIONS = {"-DCMAKE_CUDA_ARCHITECTURES=": "--architectures ", "-DTENSORRT_INCLUDE_DIR=": "--include "}


def sources() -> list[Path]:
    """Every file that goes into the library."""
    kinds = {".cu", ".cuh", ".h", ".cpp", ".cmake"}
    inner = [path for room in ("kernels", "tensorrt") for path in (SOURCES / room).rglob("*") if path.suffix in kinds]
    return [SOURCES / "CMakeLists.txt", *sorted(inner)]


def configure(folder: Path, architectures: str, include: Path | None) -> dict[str, str]:
    """Have CMake look at this machine.

    Args:
        folder: to build in.
        architectures: compute capabilities, such as ``87`` or ``87;120``; ``native`` for the GPU of this machine;
            ``all`` for those of every device we know.
        include: the folder of NvInfer.h; None where CMake shall look.

    Returns:
        architectures, cuda and cxx (the compilers), and tensorrt (version of the headers) where there are headers.

    Raises:
        RequestError: `architectures` is no such list, or `include` is a folder without the headers.
        MissingError: no CMake, or it does not find what it needs.
    """
    if not _ARCHITECTURES.fullmatch(architectures):
        raise RequestError(
            f"{architectures!r} is no list of compute capabilities",
            where="--architectures",
            fix="Say native, all, or numbers such as 87 (Orin) or '87;89'.",
        )
    if include is not None and not (include / _HEADER).is_file():
        raise RequestError(f"there is no {_HEADER} in {include}", where="--include", fix="Name the folder it lies in.")
    if shutil.which("cmake") is None:
        raise MissingError("there is no cmake on this machine", fix="Run: sudo apt-get install cmake build-essential")
    command = ["cmake", "-S", str(SOURCES), "-B", str(folder)]
    if architectures != "all":
        command.append(f"-DCMAKE_CUDA_ARCHITECTURES={architectures}")
    if include is not None:
        command.append(f"-DTENSORRT_INCLUDE_DIR={include.resolve()}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if _NO_COMPILER.search(done.stderr):
        raise MissingError(
            "CMake finds no C++ compiler or no make on this machine", fix="Run: sudo apt-get install build-essential"
        )
    if done.returncode != 0:
        raise MissingError(_reason(done.stderr), where="cmake, configuring the plugin library")
    found = {name: re.search(pattern, done.stdout, re.MULTILINE) for name, pattern in _FACTS.items()}
    return {name: match[1] for name, match in found.items() if match}


def compile_target(folder: Path, target: str, step: Step) -> Path:
    """Compile a library that `configure` prepared; `step` hears of each file.

    Raises:
        MissingError: a compiler refuses; with its first error.
    """
    command = ["cmake", "--build", str(folder), "--target", target, "--parallel", str(min(8, os.cpu_count() or 1))]
    lines: list[str] = []
    # In a session of its own, so that stopping it stops the compilers that it started.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        for line in process.stdout or ():
            lines.append(line)
            if file := re.search(r"Building \w+ object \S*?([\w.]+\.(?:cu|cpp))\.o", line):
                step(f"compiling {file[1]}")
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    finally:
        process.wait()
    library = next(folder.glob(f"lib{target}.so"), None)
    if library is None:
        error = next((line for line in lines if re.search(r"\berror\b|\*\*\*", line, re.IGNORECASE)), "no output")
        raise MissingError(
            f"the plugin library does not compile here: {str(error).replace(str(SOURCES), '').strip()[:300]}",
            where="cmake --build",
            fix="The compiler's whole output: cmake -S "
            f"{SOURCES} -B build/plugins && cmake --build build/plugins --target {target}",
        )
    return library


def _reason(text: str) -> str:
    """What the compiler refuses, or the message of CMake's first error, with our options for its own."""
    message = re.search(r"nvcc (?:fatal|error) *: (.*)", text) or re.search(
        r"CMake Error[^\n]*\n(.*?)(?:\nCall Stack|\n\n\n|\Z)", text, re.DOTALL
    )
    words = " ".join((message[1] if message else text).split())
    for theirs, ours in _OPTIONS.items():
        words = words.replace(theirs, ours)
    return words[:600]
