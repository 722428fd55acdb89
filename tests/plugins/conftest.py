"""The kernels as a library for the CPU."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def library():
    """The emulated library; TOKEXPORT_SANITIZE=1 compiles it with sanitizers."""
    if shutil.which("g++") is None:
        pytest.skip("kernels on the CPU: there is no g++")
    from kernel_abi import Library
    from kernel_build import SANITIZE, build_emulated

    return Library(build_emulated(*(SANITIZE if os.environ.get("TOKEXPORT_SANITIZE") else ())), "cpu")


@pytest.fixture(scope="session")
def host():
    """The plugin library on the emulated kernels, loaded beside a stand-in for TensorRT."""
    from library_build import build_host, build_library, need_headers
    from plugin_host import Host

    include = need_headers()
    return Host(build_host(include), build_library(include))
