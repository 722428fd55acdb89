"""The C++ runtime, built once for all tests of this folder, its library with AddressSanitizer and UBSan."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path

import pytest

# The recogniser made by hand is shared with the tests of the Python runtime.
sys.path.insert(0, str(Path(__file__).parents[1] / "runtimes"))

from cpp_build import BUILD, INSTALLED, ROOT, TESTS, Calls, build, lacking, onnxruntime


@pytest.fixture(scope="session")
def installed() -> Path:
    """The prefix of the installed package: library, headers, CMake package, tokexport-run."""
    missing = lacking()
    if missing and not os.environ.get("CI"):
        pytest.skip(f"C++ runtime: apt install {' '.join(missing)}")
    assert not missing, missing
    _once("runtime", _install)
    return INSTALLED


@pytest.fixture(scope="session")
def tests(installed: Path) -> Path:
    _once("tests", lambda: build("tests", TESTS, f"-DCMAKE_PREFIX_PATH={installed}"))
    return BUILD / "tests"


@pytest.fixture(scope="module")
def cpp(tests: Path, tmp_path_factory: pytest.TempPathFactory):
    calls = Calls(tests / "tokexport-calls", tmp_path_factory.mktemp("calls"))
    yield calls
    assert calls.close() == 0


def _install() -> None:
    shutil.rmtree(INSTALLED, ignore_errors=True)
    options = (f"-DONNXRUNTIME_ROOT={onnxruntime()}", "-DTOKEXPORT_SANITIZE=ON")
    build("runtime", ROOT / "runtimes/cpp", *options, install=True)


def _once(name: str, make) -> None:
    """Make it in one of the processes that share this run, while the others wait."""
    this = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{name}.run").open("a+") as stamp:
        fcntl.flock(stamp, fcntl.LOCK_EX)
        stamp.seek(0)
        if stamp.read() == this:
            return
        make()
        stamp.truncate(0)
        stamp.write(this)
