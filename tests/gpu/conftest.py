"""The kernels as a library for this machine's GPU. The checks are those of tests/plugins."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))


@pytest.fixture(scope="session")
def library():
    """Skips, and says what is missing, where the kernels cannot be built or run."""
    torch = pytest.importorskip("torch", reason="kernels on a GPU: there is no torch")
    from kernel_build import build_for_gpu, nvcc

    if not torch.cuda.is_available():
        pytest.skip("kernels on a GPU: torch sees no CUDA device")
    if nvcc() is None or shutil.which("cmake") is None:
        pytest.skip("kernels on a GPU: there is no nvcc or no cmake")
    from kernel_abi import Library

    major, minor = torch.cuda.get_device_capability()
    return Library(build_for_gpu(f"{major}{minor}"), "cuda")
