"""The few CUDA calls that running an engine takes, through NVIDIA's `cuda-bindings`; no torch."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import GraphError, MissingError

_INSTALL = 'Install it for the CUDA of your driver: pip install "cuda-bindings~=12.6" or "cuda-bindings~=13.0"'


class CudaError(GraphError):
    """A CUDA call failed."""


class Memory:
    """Bytes on the device, or page-locked on the host, freed when the last reference is gone.

    Attributes:
        address: of the first byte.
        size: in bytes.
    """

    def __init__(self, address: int, size: int, free: Callable[[int], Any]) -> None:
        self.address, self.size = address, size
        weakref.finalize(self, free, address)

    def array(self, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Host memory as an array, which does not keep the memory alive."""
        bytes_ = memoryview((ctypes.c_byte * self.size).from_address(self.address)).cast("B")
        return np.frombuffer(bytes_, np.uint8).view(dtype).reshape(shape)


class Cuda:
    """A stream on the current device, and the calls on it.

    Raises:
        MissingError: no `cuda-bindings`, no driver, or no GPU.
    """

    def __init__(self) -> None:
        self._rt = _runtime()
        self.stream = self._call("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking)

    def device_memory(self, size: int) -> Memory:
        """Bytes on the device; at least one, because CUDA returns no address for zero bytes."""
        address = int(self._call("cudaMalloc", max(size, 1)))
        return Memory(address, size, self._rt.cudaFree)

    def host_memory(self, size: int) -> Memory:
        """Page-locked bytes on the host: copies from and to them do not block the host."""
        address = int(self._call("cudaMallocHost", max(size, 1)))
        return Memory(address, size, self._rt.cudaFreeHost)

    def upload(self, to: Memory, source: Memory) -> None:
        """Copy host memory to the device, in stream order."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", to.address, source.address, source.size, kind, self.stream)

    def download(self, to: Memory, source: Memory) -> None:
        """Copy device memory to the host, in stream order."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", to.address, source.address, source.size, kind, self.stream)

    def copy(self, to: Memory, source: Memory) -> None:
        """Copy device memory to device memory of the same size, in stream order."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", to.address, source.address, source.size, kind, self.stream)

    def copy_rows(self, to: tuple[Memory, int, int], source: tuple[Memory, int, int], width: int, rows: int) -> None:
        """Copy `rows` pieces of `width` bytes on the device, in stream order.

        Args:
            to: memory, the byte of the first piece in it, and the bytes from one piece to the next.
            source: likewise.
        """
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        ends = ((memory.address + first, pitch) for memory, first, pitch in (to, source))
        self._call("cudaMemcpy2DAsync", *(part for end in ends for part in end), width, rows, kind, self.stream)

    def synchronize(self) -> None:
        """Wait for the stream; errors of asynchronous calls are raised here."""
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """Capture what `enqueue` puts on the stream instead of running it; returns an executable graph for `launch`.

        Raises:
            CudaError: something in it cannot be captured.
        """
        # Thread-local: another thread may allocate during the capture.
        self._call(
            "cudaStreamBeginCapture", self.stream, self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        try:
            enqueue()
        finally:
            # Also after an error: a stream that stays in capture mode cannot be used again.
            error, graph = self._rt.cudaStreamEndCapture(self.stream)
        _check(self._rt, "cudaStreamEndCapture", error)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        return executable

    def launch(self, executable: Any) -> None:
        """Replay a captured graph on the stream."""
        self._call("cudaGraphLaunch", executable, self.stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        return _call(self._rt, name, *arguments)


def compute_capability() -> str:
    """Of the current GPU, such as ``8.6``; nothing is allocated on it.

    Raises:
        MissingError: no `cuda-bindings`, no driver, or no GPU.
    """
    runtime = _runtime()
    names = runtime.cudaDeviceAttr
    device = _call(runtime, "cudaGetDevice")
    major = _call(runtime, "cudaDeviceGetAttribute", names.cudaDevAttrComputeCapabilityMajor, device)
    minor = _call(runtime, "cudaDeviceGetAttribute", names.cudaDevAttrComputeCapabilityMinor, device)
    return f"{major}.{minor}"


def gpu_here() -> str | None:
    """The compute capability of the GPU of this machine; None where there is no GPU, or cuda-bindings is missing."""
    try:
        return compute_capability()
    except MissingError:
        return None


def _runtime() -> ModuleType:
    """The bindings of the CUDA runtime, after a check that they see a GPU."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingError(
            "cuda-bindings is not installed", where="Python module cuda.bindings", fix=_INSTALL
        ) from error
    status, count = runtime.cudaGetDeviceCount()
    if int(status) or not count:
        raise MissingError(
            f"CUDA sees no GPU here: {_reason(runtime, status) if int(status) else 'there is none'}",
            fix="`tokexport doctor` checks driver and GPU; cuda-bindings must be of a CUDA that the driver supports.",
        )
    return runtime


def _call(runtime: ModuleType, name: str, *arguments: Any) -> Any:
    error, *results = getattr(runtime, name)(*arguments)
    _check(runtime, name, error)
    return results[0] if results else None


def _check(runtime: ModuleType, name: str, error: Any) -> None:
    if not int(error):
        return
    # The error stays set until it is read, and would be reported for the next call.
    runtime.cudaGetLastError()
    if int(error) == int(runtime.cudaError_t.cudaErrorMemoryAllocation):
        raise MissingError(
            "the GPU is out of memory",
            where=name,
            fix="Close what else uses it, or export with --precision fp16 or fewer tokens.",
        )
    raise CudaError(f"{name} failed: {_reason(runtime, error)}")


def _reason(runtime: ModuleType, error: Any) -> str:
    text = runtime.cudaGetErrorString(error)[1]
    return text.decode() if isinstance(text, bytes) else str(text)
