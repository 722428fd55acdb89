"""The C ABI of plugins/kernels for torch tensors: on a GPU, or on the CPU with the emulated library."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_float, c_int, c_int32, c_size_t, c_uint64, c_void_p
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from tokexport.graph_passes.compressors import Case, Compressed, Compressor, parameters
from tokexport.graph_passes.compressors.grids import grid_of

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
STARTS = {"first": 0, "max_norm": 1, "farthest_from_mean": 2}
BASIS_SLOTS = {"overwrite": 0, "blend": 1, "none": 2}
SCORES = {"cls_attention": 0, "norm": 1, "distance_to_mean": 2}
MAX_BATCH, MAX_TOKENS, MAX_DIM, MAX_BASIS = 65535, 32768, 32768, 64


class Shape(ctypes.Structure):
    _fields_ = [(name, c_int32) for name in ("batch", "tokens", "dim", "keep", "dtype")]


class Outputs(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("tokens", "kept_indices", "sizes", "assignment")]


class Workspace(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("bytes", c_size_t)]


class KcenterMerge(ctypes.Structure):
    _fields_ = [("start", c_int32)]


class Apet(ctypes.Structure):
    _fields_ = [(name, c_int32) for name in ("basis", "merge", "basis_slots", "start")] + [("ridge", c_float)]


class Topk(ctypes.Structure):
    _fields_ = [("score", c_int32), ("scores_dtype", c_int32)]


class Random(ctypes.Structure):
    _fields_ = [("seed", c_uint64)]


POOL_MODES = {"average": 0, "max": 1, "bilinear": 2}
_GRID = [(name, c_int32) for name in ("frames", "height", "width")]


class Tome(ctypes.Structure):
    _fields_ = [("metric_dim", c_int32), ("protect", c_int32)]


class Pool(ctypes.Structure):
    _fields_ = [*_GRID, *((name, c_int32) for name in ("by_frames", "by_height", "by_width", "mode"))]


class PixelUnshuffle(ctypes.Structure):
    _fields_ = [*_GRID, *((name, c_int32) for name in ("by_height", "by_width", "transposed"))]


def params_of(compressor: Compressor, case: Case) -> ctypes.Structure | None:
    """The parameters of a compressor, as its kernel takes them; signals are of the dtype of the tokens."""
    given = parameters(compressor)
    if compressor.method.name in ("pool", "pixel_unshuffle"):
        grid = grid_of(case, given["grid"])
        lies = (1,) * (3 - len(grid)) + grid
        if compressor.method.name == "pixel_unshuffle":
            return PixelUnshuffle(*lies, given["r"], given["r"], given["version"] == "v1")
        stride = compressor.strides(grid)[case.keep]
        return Pool(*lies, 1, stride if len(grid) > 1 else 1, stride, POOL_MODES[given["mode"]])
    make = {
        "apet": lambda: Apet(
            given["basis"], given["merge"], BASIS_SLOTS[given["basis_slots"]], STARTS[given["start"]], given["ridge"]
        ),
        "kcenter_merge": lambda: KcenterMerge(STARTS[given["start"]]),
        "random": lambda: Random(given["seed"]),
        "topk": lambda: Topk(SCORES[given["score"]], DTYPES[getattr(torch, case.dtype)]),
        "uniform": lambda: None,
    }
    return make[compressor.method.name]()


class KernelError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Library:
    """A build of the kernels. Every call returns when the device is done, for tests to look at the results."""

    def __init__(self, path: Path, device: str) -> None:
        self.device = device
        self.dll = ctypes.CDLL(str(path))
        self.dll.tokexport_message.restype = c_char_p
        self.dll.tokexport_message.argtypes = [c_int]

    def message(self, status: int) -> str:
        return self.dll.tokexport_message(status).decode()

    def require(self, status: int) -> None:
        if status != 0:
            raise KernelError(status, self.message(status))

    def workspace_bytes(self, method: str, shape: Shape, *params: ctypes.Structure) -> int | None:
        """None for a method that takes no workspace."""
        if not hasattr(self.dll, f"tokexport_{method}_workspace"):
            return None
        size = c_size_t(0)
        arguments = [ctypes.byref(part) for part in (shape, *params)]
        self.require(getattr(self.dll, f"tokexport_{method}_workspace")(*arguments, ctypes.byref(size)))
        return size.value

    def prepare(self, method: str, keep: int, params: ctypes.Structure | None, tokens: torch.Tensor, *signals, dim=0):
        """(call, outputs): everything allocated, and full of what a kernel must not rely on."""
        batch, count, width = tokens.shape
        given = () if params is None else (params,)
        shape = Shape(batch, count, width, keep, DTYPES[tokens.dtype])
        size = self.workspace_bytes(method, shape, *given)

        def full(*sizes: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.full(sizes, -77, dtype=dtype, device=self.device)

        outputs = Compressed(
            full(batch, keep, dim or width, dtype=tokens.dtype),
            full(batch, keep, dtype=torch.int64),
            full(batch, keep, dtype=torch.float32),
            full(batch, count, dtype=torch.int64),
        )
        scratch = torch.full((size or 0,), 0xFF, dtype=torch.uint8, device=self.device)  # NaN as floats, -1 as integers
        arguments = [
            *(ctypes.byref(part) for part in (shape, *given)),
            *(c_void_p(None if part is None else part.data_ptr()) for part in (tokens, *signals)),
            Outputs(*(part.data_ptr() for part in (outputs.tokens, *_rest(outputs)))),
            *([] if size is None else [Workspace(scratch.data_ptr(), size)]),
        ]
        function = getattr(self.dll, f"tokexport_{method}")

        def call(stream: int = 0, alive=(shape, given, tokens, signals, scratch)) -> None:
            self.require(function(*arguments, c_void_p(stream)))

        return call, outputs

    def run(self, method: str, keep: int, params: ctypes.Structure | None, tokens: torch.Tensor, *signals, dim=0):
        """The outputs as NumPy arrays; bfloat16 as ml_dtypes has it."""
        call, outputs = self.prepare(
            method,
            keep,
            params,
            *(part if part is None else part.to(self.device) for part in (tokens, *signals)),
            dim=dim,
        )
        call()
        if self.device != "cpu":
            torch.cuda.synchronize()
        return Compressed(*(as_numpy(part) for part in (outputs.tokens, *_rest(outputs))))


def _rest(outputs: Compressed) -> tuple:
    return outputs.kept_indices, outputs.sizes, outputs.assignment


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
