"""A stand-in for the CUDA runtime: "device" memory is host memory, and a stream does at once what it is told.

It keeps the rules that our code relies on and must keep: handles and addresses are checked, memory is freed once,
nothing runs while a stream is captured, and a graph replays exactly what was captured. It knows nothing of speed,
kernels or a real driver. Tests read `CALLS` and `LIVE`, and set `FAILS`.
"""

from __future__ import annotations

import ctypes
import enum
import os
from collections.abc import Callable

CALLS: list[str] = []
LIVE: dict[int, ctypes.Array] = {}
# Function -> error that it returns.
FAILS: dict[str, int] = {}

cudaStreamNonBlocking = 1


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorStreamCaptureUnsupported = 900


class cudaDeviceAttr(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class Stream:
    """A handle; `captured` collects work while it is captured."""

    def __init__(self) -> None:
        self.captured: list[Callable[[], None]] | None = None
        STREAMS[int(self)] = self

    def __int__(self) -> int:
        return id(self)


STREAMS: dict[int, Stream] = {}


def enqueue(stream: int, work: Callable[[], None]) -> None:
    """What a kernel launch does: run, or be captured."""
    captured = STREAMS[stream].captured
    if captured is None:
        work()
    else:
        captured.append(work)


def _said(name: str, *results: object) -> tuple:
    CALLS.append(name)
    error = cudaError_t(FAILS.get(name, 0))
    return (error, *(None if error else result for result in results))


def cudaGetDeviceCount():
    return _said("cudaGetDeviceCount", 0 if os.environ.get("STAND_IN_SM") == "none" else 1)


def cudaGetDevice():
    return _said("cudaGetDevice", 0)


def cudaDeviceGetAttribute(attribute, device):
    major, minor = os.environ.get("STAND_IN_SM", "8.7").split(".")
    return _said("cudaDeviceGetAttribute", int(major if attribute == 75 else minor))


def cudaStreamCreateWithFlags(flags):
    return _said("cudaStreamCreateWithFlags", Stream())


def cudaMalloc(size):
    return _allocate("cudaMalloc", size)


def cudaMallocHost(size):
    return _allocate("cudaMallocHost", size)


def _allocate(name, size):
    if FAILS.get(name):
        return _said(name, None)
    # What was never written must not look like a result.
    memory = ctypes.create_string_buffer(b"\xa5" * size, size)
    LIVE[ctypes.addressof(memory)] = memory
    return _said(name, ctypes.addressof(memory))


def cudaFree(address):
    del LIVE[address]
    return _said("cudaFree")


cudaFreeHost = cudaFree


def cudaMemcpyAsync(to, source, count, kind, stream):
    for address in (to, source):
        assert count <= len(LIVE[address]), "past the end of a buffer"
    assert stream.captured is None, "copies are not part of our graphs"
    ctypes.memmove(to, source, count)
    return _said({1: "upload", 2: "download", 3: "copy"}[kind])


def cudaMemcpy2DAsync(to, to_pitch, source, source_pitch, width, height, kind, stream):
    assert kind == cudaMemcpyKind.cudaMemcpyDeviceToDevice
    assert stream.captured is None, "copies are not part of our graphs"
    for address, pitch in ((to, to_pitch), (source, source_pitch)):
        assert width <= pitch
        start = max(start for start in LIVE if start <= address)
        assert address + (height - 1) * pitch + width <= start + len(LIVE[start]), "past the end of a buffer"
    for row in range(height):
        ctypes.memmove(to + row * to_pitch, source + row * source_pitch, width)
    return _said("copy rows")


def cudaStreamSynchronize(stream):
    assert stream.captured is None, "a wait inside of a capture"
    return _said("cudaStreamSynchronize")


def cudaStreamBeginCapture(stream, mode):
    assert stream.captured is None
    stream.captured = []
    return _said("cudaStreamBeginCapture")


def cudaStreamEndCapture(stream):
    work, stream.captured = stream.captured, None
    return _said("cudaStreamEndCapture", work)


def cudaGraphInstantiate(graph, flags):
    return _said("cudaGraphInstantiate", tuple(graph))


def cudaGraphDestroy(graph):
    return _said("cudaGraphDestroy")


def cudaGraphLaunch(executable, stream):
    for work in executable:
        work()
    return _said("cudaGraphLaunch")


def cudaGetLastError():
    return _said("cudaGetLastError")


def cudaGetErrorString(error):
    return cudaError_t.cudaSuccess, cudaError_t(error).name.encode()
