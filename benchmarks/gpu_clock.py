"""The clock of bench_gpu.py: device events on a GPU. Wall time on a CPU only tests the benchmark itself."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

Call = Callable[[], object]

_L2_CACHE_SIZE = 38  # CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE


class Clock(Protocol):
    """Times calls on one device.

    Attributes:
        device: its name in torch.
        l2_bytes: size of its last-level cache; the buffers used in turn must together be larger.
    """

    @property
    def device(self) -> str: ...

    @property
    def l2_bytes(self) -> int: ...

    def facts(self) -> dict[str, Any]:
        """The context of a figure: device, driver, versions."""

    def stream(self) -> int:
        """The current stream, as an integer for the C ABI."""

    def microseconds(self, calls: Sequence[Call], *, captured: bool) -> float:
        """Median time of a call, for calls enqueued one after the other. `captured`: as one CUDA graph, so that the
        host's time is not in it. Raises RuntimeError where a call cannot be captured: it waits for the host."""


@dataclass(frozen=True)
class EventClock:
    """Device events around all calls, which run on the device without a pause.

    Attributes:
        rounds: how often all calls are timed.
        warm_s: seconds of the same calls before that: an idle GPU runs at a low clock.
    """

    rounds: int
    warm_s: float = 0.1

    device = "cuda"

    @property
    def l2_bytes(self) -> int:
        return _driver_says("cuDeviceGetAttribute", _L2_CACHE_SIZE, 0)

    def facts(self) -> dict[str, Any]:
        import torch

        properties = torch.cuda.get_device_properties(0)
        mode = _said("nvpmodel", "-q")
        return {
            "name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": self.l2_bytes,
            "memory_bytes": properties.total_memory,
            "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cuda_of_driver": _driver_says("cuDriverGetVersion"),
            "cuda_of_torch": torch.version.cuda,
            **({"power_mode": " ".join(mode.split())} if mode else {}),
        }

    def stream(self) -> int:
        import torch

        return torch.cuda.current_stream().cuda_stream

    def microseconds(self, calls: Sequence[Call], *, captured: bool) -> float:
        import torch

        def one_by_one() -> None:
            for call in calls:
                call()

        one_by_one()
        torch.cuda.synchronize()
        once = self._capture(one_by_one) if captured else one_by_one
        deadline = time.perf_counter() + self.warm_s
        while time.perf_counter() < deadline:
            once()
            torch.cuda.synchronize()
        times = []
        for _ in range(self.rounds):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            once()
            stop.record()
            stop.synchronize()
            times.append(1e3 * start.elapsed_time(stop))
        return median(times) / len(calls)

    def _capture(self, work: Callable[[], None]) -> Callable[[], None]:
        import torch

        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            work()  # libraries allocate their workspace on this stream here, which they must not do in a capture
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            work()
        return graph.replay


@dataclass(frozen=True)
class WallClock:
    """The CPU's clock, for trying the benchmark where there is no GPU; `captured` makes no difference."""

    l2_bytes: int = 1 << 12
    rounds: int = 1

    device = "cpu"

    def facts(self) -> dict[str, Any]:
        return {"name": "CPU emulation", "l2_bytes": self.l2_bytes}

    def stream(self) -> int:
        return 0

    def microseconds(self, calls: Sequence[Call], *, captured: bool) -> float:
        times = []
        for _ in range(self.rounds):
            start = time.perf_counter()
            for call in calls:
                call()
            times.append(1e6 * (time.perf_counter() - start))
        return median(times) / len(calls)


def slug(name: str) -> str:
    """A device's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _driver_says(function: str, *arguments: int) -> int:
    """The integer that a function of the CUDA driver returns, which torch on a Jetson does not always provide."""
    value = ctypes.c_int(0)
    status = getattr(ctypes.CDLL("libcuda.so.1"), function)(ctypes.byref(value), *arguments)
    if status != 0:
        raise RuntimeError(f"{function} of the CUDA driver failed with {status}")
    return value.value


def _said(program: str, *arguments: str) -> str | None:
    """The output of a program, or None where it is not installed or fails."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None
