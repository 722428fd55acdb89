"""The kernels compile where they have to, and nothing they do on the CPU is out of bounds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from kernel_build import KERNELS, TESTS, build_for_gpu, nvcc, run
from tokexport.plugins.structs import Shape


@pytest.mark.skipif(nvcc() is None, reason="kernels for a GPU: there is no nvcc")
@pytest.mark.skipif(shutil.which("cmake") is None, reason="kernels for a GPU: there is no cmake")
def test_nvcc_compiles_the_kernels_without_a_warning():
    import ctypes

    dll = ctypes.CDLL(str(build_for_gpu("87")))
    functions = re.findall(
        r"^(?:int|const char\*) (tokexport_\w+)\(", (KERNELS / "tokexport_kernels.h").read_text(), re.M
    )
    assert len(functions) > 15
    assert [name for name in functions if not hasattr(dll, name)] == []
    dll.tokexport_message.restype = ctypes.c_char_p
    assert dll.tokexport_divprune_workspace(ctypes.byref(Shape(0, 1, 1, 1, 0)), None) == 1
    assert dll.tokexport_message(1) == b"batch is outside 1..65535"
    dll.tokexport_architectures.restype = ctypes.c_char_p
    assert dll.tokexport_architectures() == b"87"


def test_the_header_is_plain_c(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("the header in C: there is no gcc")
    source = tmp_path / "use.c"
    source.write_text('#include "tokexport_kernels.h"\nint main(void) { return tokexport_message(0) == 0; }\n')
    run("gcc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{KERNELS}", "-fsyntax-only", source)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="kernels under sanitizers: there is no g++")
def test_nothing_is_out_of_bounds_on_the_cpu():
    preload = " ".join(run("g++", f"-print-file-name=lib{name}.so").strip() for name in ("asan", "ubsan"))
    environment = {
        **os.environ,
        "TOKEXPORT_SANITIZE": "1",
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "OMP_NUM_THREADS": "1",
    }
    tests = [str(path) for path in sorted(TESTS.glob("test_*emulated.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
