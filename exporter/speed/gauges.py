"""Energy and the memory of a GPU, where something here can tell: NVML, RAPL of a CPU, the INA sensors of a Jetson.

Energy is that of a whole device, with what it takes when idle and what others have it do.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

_INSTALL = "pip install nvidia-ml-py"
_PERIOD = 0.02  # seconds between two looks at a sensor of power


@dataclass(frozen=True)
class Counter:
    """Something that counts energy.

    Attributes:
        name: of what, and who tells.
        joules: since any time.
    """

    name: str
    joules: Callable[[], float]


@contextlib.contextmanager
def energy(root: Path = Path("/")) -> Iterator[tuple[list[Counter], str]]:
    """What counts energy here; where nothing does, why it is not known."""
    counters = [*_nvml_energy(), *_rapl(root)]
    rails, stop = _rails(root), threading.Event()
    if rails:
        meter = _Meter(rails, stop)
        meter.start()
        counters.append(Counter(f"INA, {' + '.join(rails)}", lambda: meter.joules))
    try:
        yield counters, "" if counters else _why_no_energy()
    finally:
        stop.set()


def gpu_memory(process: int) -> int | None:
    """Bytes of GPU memory that a process holds; None where nobody tells."""
    nvml = _nvml()
    if nvml is not None:
        with contextlib.suppress(nvml.NVMLError):
            running = [
                one
                for index in range(nvml.nvmlDeviceGetCount())
                for one in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index))
            ]
            used = [one.usedGpuMemory for one in running if one.pid == process and one.usedGpuMemory is not None]
            return sum(used) if used else None
    listed = _smi("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines()]
    mebibytes = [int(row[1]) for row in rows if row[0] == str(process) and len(row) == 2 and row[1].isdigit()]
    return sum(mebibytes) * 2**20 if mebibytes else None


def why_no_gpu_memory() -> str:
    """Why `gpu_memory` gave None."""
    if _nvml() is None and not shutil.which("nvidia-smi"):
        return f"neither nvidia-ml-py ({_INSTALL}) nor nvidia-smi is here"
    return "the driver lists no such process: a Jetson's lists none, and that outside of a container has other numbers"


def _nvml() -> Any:
    """The library of NVIDIA's driver, started; None where it is not here, or finds no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        # Its error has no class where the package is another one of that name.
        return None
    return pynvml


def _nvml_energy() -> Iterator[Counter]:
    nvml = _nvml()
    if nvml is None:
        return
    with contextlib.suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)

            def joules(handle: Any = handle) -> float:
                return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

            yield Counter(f"NVML, GPU {index}", joules)


def _rapl(root: Path) -> Iterator[Counter]:
    """The packages of a CPU; the kernel lets root alone read them."""
    for package in sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]")):
        try:
            counter = _Wrapping(package / "energy_uj", int((package / "max_energy_range_uj").read_text()))
            counter.joules()
        except (OSError, ValueError):
            continue
        yield Counter(f"RAPL, CPU {package.name[-1]}", counter.joules)


class _Wrapping:
    """A counter of microjoules that begins again at `most`."""

    def __init__(self, file: Path, most: int) -> None:
        self._file, self._most, self._whole, self._last = file, most, 0, 0

    def joules(self) -> float:
        seen = int(self._file.read_text())
        self._whole += self._most * (seen < self._last)
        self._last = seen
        return (self._whole + seen) / 1e6


def _rails(root: Path) -> dict[str, Callable[[], float]]:
    """Watts of each rail of a Jetson; VDD_IN or VIN alone where there is one, as all others hang on it."""
    rails: dict[str, Callable[[], float]] = {}
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if not _text(sensor / "name").startswith("ina"):
            continue
        for label in sorted(sensor.glob("in[0-9]*_label")):
            channel, name = label.name[2:-6], _text(label)
            volts, amperes = sensor / f"in{channel}_input", sensor / f"curr{channel}_input"
            if volts.is_file() and amperes.is_file() and name not in ("", "NC"):
                rails[name] = partial(_watts, volts, amperes)
        if not rails and (power := sensor / "power1_input").is_file():
            rails["VIN"] = partial(_watts, power)
    whole = next((name for name in ("VDD_IN", "VIN") if name in rails), None)
    return {whole: rails[whole]} if whole else rails


def _watts(*files: Path) -> float:
    """Of a file of microwatts, or of millivolts and milliamperes."""
    return math.prod(int(_text(file)) for file in files) / 1e6


class _Meter(threading.Thread):
    """Adds up the power of rails."""

    def __init__(self, rails: dict[str, Callable[[], float]], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._rails, self._stopped, self.joules = rails, stop, 0.0

    def run(self) -> None:
        before = time.perf_counter()
        while not self._stopped.wait(_PERIOD):
            with contextlib.suppress(ValueError):
                watts = sum(rail() for rail in self._rails.values())
                self.joules += watts * (time.perf_counter() - before)
            before = time.perf_counter()


def _why_no_energy() -> str:
    if _nvml() is None and shutil.which("nvidia-smi"):
        return f"not known: the GPU is read by nvidia-ml-py, which is not installed: {_INSTALL}"
    return "not known: no NVIDIA GPU that counts it, no RAPL of the CPU that may be read, no INA sensor"


def _smi(*arguments: str) -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
