"""The kernels as a library for this machine's GPU. The checks are those of tests/plugins."""

from __future__ import annotations

import os

import pytest
from gpu_needs import gpu_library, missing


@pytest.fixture(scope="session")
def library():
    """Says what is missing where the kernels cannot be built or run: skips, or ends where TOKEXPORT_GPU=required."""
    lacks = missing()
    if lacks and os.environ.get("TOKEXPORT_GPU") == "required":
        pytest.exit("the kernels cannot run: this machine lacks " + "; and ".join(lacks), returncode=3)
    if lacks:
        pytest.skip("kernels on a GPU: this machine lacks " + "; and ".join(lack.split(":")[0] for lack in lacks))
    return gpu_library()
