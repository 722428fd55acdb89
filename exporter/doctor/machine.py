"""The machine as the probes see it: facts and four functions that inspect it, so that a test can simulate any."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """A process that ended: its exit code (None: it could not be started, or was stopped) and what it wrote."""

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def last_line(self) -> str:
        """The last line of its error output."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip()[:200] if lines else ""


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes:
        python: of this interpreter.
        system: as `platform.system` says: Linux, Windows, Darwin.
        arch: as `platform.machine` says: x86_64, aarch64.
        packages: installed distributions, normalized name -> version.
        requires: lines of tokexport's own metadata, such as ``torch>=2.9; extra == "export"``.
        cores: of the CPU.
        memory: bytes, (total, free for a program).
        disk: bytes free where bundles are written.
        environment: its variables.
        read: text of a small file, None where there is none.
        which: path of a program, None where there is none.
        run: run a program, quietly, for some seconds at most.
        python_runs: run a piece of Python in a process of its own, so that a crash there does not end this one.
    """

    python: tuple[int, ...]
    system: str
    arch: str
    packages: Mapping[str, str]
    requires: Sequence[str]
    cores: int
    memory: tuple[int, int]
    disk: int
    environment: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[str], str | None] = lambda path: None
    which: Callable[[str], str | None] = lambda name: None
    run: Callable[[Sequence[str]], Ran] = lambda command: Ran(None)
    python_runs: Callable[[str], Ran] = lambda code: Ran(None)

    @property
    def is_jetson(self) -> bool:
        """Whether it runs Jetson Linux."""
        return self.read("/etc/nv_tegra_release") is not None


def this_machine() -> Machine:
    """The machine this runs on."""
    return Machine(
        python=tuple(sys.version_info[:3]),
        system=platform.system(),
        arch=platform.machine(),
        packages=_packages(),
        requires=_requires(),
        cores=os.cpu_count() or 1,
        memory=_memory(),
        disk=shutil.disk_usage(Path.cwd()).free,
        environment=dict(os.environ),
        read=_read,
        which=shutil.which,
        run=_run,
        python_runs=lambda code: _run([sys.executable, "-c", code]),
    )


def _packages() -> dict[str, str]:
    found = {}
    for distribution in importlib.metadata.distributions():
        try:
            found[re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()] = distribution.version
        except Exception:  # A half-removed package has a folder and no metadata.
            continue
    return found


def _requires() -> list[str]:
    try:
        return importlib.metadata.requires("tokexport") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _memory() -> tuple[int, int]:
    text = _read("/proc/meminfo") or ""
    found = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return found.get("MemTotal", 0), found.get("MemAvailable", 0)


def _read(path: str) -> str | None:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return None


def _run(command: Sequence[str]) -> Ran:
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=30, check=False, errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        return Ran(None, "", str(error))
    return Ran(done.returncode, done.stdout, done.stderr)
