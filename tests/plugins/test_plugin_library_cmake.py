"""What CMake says of the machine it finds: headers of TensorRT, architectures of GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_build import KERNELS, PLUGINS

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="plugin library's CMake files: there is no cmake")

HEADERS = PLUGINS / "tensorrt" / "headers.cmake"
ARCHITECTURES = KERNELS / "architectures.cmake"
KNOWN = "compute_75 compute_80 compute_87 compute_90 compute_100 compute_120"


def cmake(script: Path, *definitions: str) -> tuple[int, str]:
    """Exit status and output, the words of a message in one line."""
    names = ("TENSORRT_INCLUDE_DIR", "TENSORRT_ROOT", "TRT_ROOT", "CUDACXX", "CUDA_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = ["cmake", *(f"-D{definition}" for definition in definitions), "-P", str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def headers(folder: Path, version: str) -> Path:
    folder.mkdir()
    (folder / "NvInferRuntime.h").touch()
    (folder / "NvInferVersion.h").write_text(version)
    return folder


def test_no_headers(tmp_path):
    nowhere = ("CMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY", f"CMAKE_FIND_ROOT_PATH={tmp_path}")
    status, said = cmake(HEADERS, *nowhere)
    assert status == 0
    assert "only libtokexport_kernels is built" in said
    assert "sudo apt install libnvinfer-headers-dev" in said and "-DTENSORRT_INCLUDE_DIR=FOLDER" in said


def test_a_folder_without_headers(tmp_path):
    status, said = cmake(HEADERS, f"TENSORRT_INCLUDE_DIR={tmp_path}")
    assert status == 1
    assert f"There is no NvInferRuntime.h in TENSORRT_INCLUDE_DIR={tmp_path}" in said


VERSIONS = {
    "10.3.0": "#define NV_TENSORRT_MAJOR 10 //!< Major.\n#define NV_TENSORRT_MINOR 3\n#define NV_TENSORRT_PATCH 0\n",
    "11.1.2": "#define TRT_MAJOR_ENTERPRISE 11\n#define TRT_MINOR_ENTERPRISE 1\n#define TRT_PATCH_ENTERPRISE 2\n"
    "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< Major.\n",
    "1.7.1": "#define TRT_MAJOR_RTX 1\n#define TRT_MINOR_RTX 7\n#define TRT_PATCH_RTX 1\n",
}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_version_of_headers(tmp_path, version):
    folder = headers(tmp_path / "include", VERSIONS[version])
    assert cmake(HEADERS, f"TENSORRT_INCLUDE_DIR={folder}") == (0, f"-- TensorRT {version} headers: {folder}")


def test_headers_that_are_too_old(tmp_path):
    old = "#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 5\n#define NV_TENSORRT_PATCH 2\n"
    status, said = cmake(HEADERS, f"TENSORRT_INCLUDE_DIR={headers(tmp_path / 'include', old)}")
    assert status == 1
    assert "need TensorRT 10 or later" in said and "has 8.5.2" in said and "tokexport build --form inlined" in said


@pytest.fixture
def toolkit(tmp_path):
    """A CUDA toolkit that knows KNOWN; its driver has the GPUs that the test says."""

    def make(gpus: str | None) -> str:
        answers = {
            "nvcc": "printf '%s\\n' " + KNOWN,
            "__nvcc_device_query": "exit 1" if gpus is None else f"echo {gpus}",
        }
        for name, command in answers.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n")
            (tmp_path / name).chmod(0o755)
        return f"CMAKE_CUDA_COMPILER={tmp_path / 'nvcc'}"

    return make


def test_all_architectures_are_those_that_the_compiler_knows(toolkit):
    assert cmake(ARCHITECTURES, toolkit(None)) == (
        0,
        "-- CUDA architectures: 75-real;87-real;90-real;120-real",
    )


@pytest.mark.parametrize(
    ("gpus", "expected"), [("87", "87-real"), ("75,120", "75-real;120-real"), ("90,90", "90-real")]
)
def test_the_architecture_of_this_machine(toolkit, gpus, expected):
    found = cmake(ARCHITECTURES, toolkit(f"'{gpus}'"), "CMAKE_CUDA_ARCHITECTURES=native")
    assert found == (0, f"-- CUDA architectures: {expected}")


def test_a_machine_without_a_gpu(toolkit):
    status, said = cmake(ARCHITECTURES, toolkit(None), "CMAKE_CUDA_ARCHITECTURES=native")
    assert status == 1
    assert "There is no NVIDIA GPU on this machine to compile for" in said and "=87 (Orin;" in said


def test_architectures_that_are_said_stay(toolkit):
    assert cmake(ARCHITECTURES, toolkit(None), "CMAKE_CUDA_ARCHITECTURES=87") == (0, "-- CUDA architectures: 87")


def test_no_compiler(tmp_path):
    if Path("/usr/local/cuda/bin/nvcc").exists() or shutil.which("nvcc"):
        pytest.skip("architectures without a compiler: there is one")
    status, said = cmake(ARCHITECTURES)
    assert status == 1 and "There is no nvcc" in said
