"""What a run of the kernels on a GPU needs of a machine, and their library for it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))

from kernel_build import nvcc


def missing() -> list[str]:
    """What is not here, each with what to do about it."""
    lacks = []
    try:
        import torch
    except ImportError:
        lacks.append("torch: name a Python that has one built for CUDA, as in `make test-gpu PYTHON=python3.12`")
    else:
        if torch.version.cuda is None:
            lacks.append(
                f"a torch built for CUDA (this one is {torch.__version__}): name a Python that has one, as in "
                "`make test-gpu PYTHON=python3.12`; on a Jetson it is NVIDIA's wheel"
            )
        elif not torch.cuda.is_available():
            lacks.append("a CUDA device that torch sees: nvidia-smi says whether the driver does")
    if nvcc() is None:
        lacks.append("nvcc: install the CUDA toolkit (on a Jetson `sudo apt install nvidia-jetpack`), or set CUDA_HOME")
    if shutil.which("cmake") is None:
        lacks.append("cmake: `pip install cmake` or `sudo apt install cmake`")
    return lacks


def gpu_library() -> Any:
    """A `kernel_abi.Library` of the kernels, compiled for this machine's GPU."""
    import torch
    from kernel_abi import Library
    from kernel_build import build_for_gpu

    major, minor = torch.cuda.get_device_capability()
    return Library(build_for_gpu(f"{major}{minor}"), "cuda")
