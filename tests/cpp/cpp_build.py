"""Builds the C++ runtime, installs it, builds what consumes the installed package, and speaks with tokexport-calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tokexport import errors

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
BUILD = ROOT / "build" / "test-cpp"
INSTALLED = BUILD / "installed"

PACKAGES = {
    "nlohmann/json.hpp": "nlohmann-json3-dev",
    "doctest/doctest.h": "doctest-dev",
    "openssl/evp.h": "libssl-dev",
    "CLI/CLI.hpp": "libcli11-dev",
    "png.h": "libpng-dev",
    "sndfile.h": "libsndfile1-dev",
}


def lacking() -> list[str]:
    """What of this machine is missing, as Debian packages."""
    programs = {"cmake": "cmake", "ninja": "ninja-build", "g++": "g++", "pkg-config": "pkgconf"}
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    if "g++" in missing:
        return missing
    found = {package: _has(header) for header, package in PACKAGES.items()}
    return missing + [package for package, there in found.items() if not there]


def onnxruntime() -> Path:
    """A folder with include/ and lib/: that of ONNXRUNTIME_ROOT, or one made by onnxruntime.sh."""
    if "ONNXRUNTIME_ROOT" in os.environ:
        return Path(os.environ["ONNXRUNTIME_ROOT"])
    folder = ROOT / "build" / "onnxruntime"
    if not ((folder / "include").is_dir() and (folder / "lib" / "libonnxruntime.so").exists()):
        run(TESTS / "onnxruntime.sh", folder, sys.executable)
    return folder


def build(name: str, source: Path, *options: str, install: bool = False) -> Path:
    """Configure with Ninja and build, without optimisation; returns the build folder."""
    folder = BUILD / name
    flags = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0", f"-DCMAKE_INSTALL_PREFIX={INSTALLED}")
    run("cmake", "-S", source, "-B", folder, "-G", "Ninja", *flags, *options)
    run("cmake", "--build", folder, *(("--target", "install") if install else ()))
    return folder


def run(*command: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command that must exit with `code`."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done


class Calls:
    """tokexport-calls as functions: arguments in, results out; its errors are raised as those of the same name."""

    def __init__(self, program: Path, scratch: Path) -> None:
        self._scratch = scratch
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, what: str, **arguments: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        request = {"do": what, "out": f"{self._scratch}/", **{key: _plain(value) for key, value in arguments.items()}}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"tokexport-calls died of {request}"
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        return answer["result"]

    def image(self, what: str, pixels: np.ndarray, **arguments: Any) -> Any:
        """A call about 8-bit pixels [height, width, 3 or 4]."""
        height, width, channels = pixels.shape
        where = self._write(pixels)
        return self(what, pixels=where, width=width, height=height, channels=channels, **arguments)

    def images(self, what: str, pictures: list[np.ndarray], **arguments: Any) -> Any:
        """A call about several pictures of 8-bit pixels."""
        several = []
        for number, pixels in enumerate(pictures):
            height, width, channels = pixels.shape
            path = str(self._write(pixels, f"picture{number}"))
            several.append({"pixels": path, "width": width, "height": height, "channels": channels})
        return self(what, several=several, **arguments)

    def sound(self, what: str, samples: np.ndarray, rate: int = 16000, **arguments: Any) -> Any:
        """A call about a waveform, float32 [samples]."""
        return self(what, samples=self._write(samples.astype(np.float32)), rate=rate, **arguments)

    def close(self) -> int:
        """The exit code; the sanitizers' where they found something, leaks included."""
        self._process.communicate()
        return self._process.returncode

    def _write(self, array: np.ndarray, name: str = "medium") -> Path:
        path = self._scratch / name
        path.write_bytes(np.ascontiguousarray(array).tobytes())
        return path


def arrays(result: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of a call."""
    return {
        name: np.frombuffer(Path(item["path"]).read_bytes(), item["dtype"]).reshape(item["shape"])
        for name, item in result.items()
    }


def outcome(call: Any, *arguments: Any, **named: Any) -> Any:
    """What a call returns, or the class of its error."""
    try:
        return call(*arguments, **named)
    except errors.TokexportError as error:
        return type(error)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _has(header: str) -> bool:
    text = f"#if !__has_include(<{header}>)\n#error\n#endif\n"
    command = ["g++", "-std=c++17", "-E", "-x", "c++", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).returncode == 0
