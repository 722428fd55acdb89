"""The name that the wheel of TensorRT-RTX lacks, given to it in a process that runs already."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("tensorrt_rtx")

_OPENS = "import ctypes; assert ctypes.CDLL('libtensorrt_rtx.so').getInferLibVersion() >= 10000"


@pytest.mark.parametrize("cure", [True, False])
def test_the_registry_finds_its_library_only_with_the_cure(cure: bool) -> None:
    given = (
        "from tokexport.runtimes.tensorrt.wheel import provide_missing_name as cure; cure(); cure(); " if cure else ""
    )
    env = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", f"import tensorrt_rtx; {given}{_OPENS}"], env=env, capture_output=True, text=True
    )
    assert (done.returncode == 0) is cure, done.stderr
