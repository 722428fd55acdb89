"""The C ABI of plugins/kernels for torch tensors: on a GPU, or on the CPU with the emulated library."""

from __future__ import annotations

import ctypes
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from tokexport.graph_passes.compressors import Case, Compressed, Compressor
from tokexport.graph_passes.compressors.base import plugin_attributes
from tokexport.plugins import abi
from tokexport.plugins.structs import DTYPES as CODES
from tokexport.plugins.structs import Shape, Workspace

DTYPES = {getattr(torch, name): code for name, code in CODES.items()}


def params_of(compressor: Compressor, case: Case, *signals: torch.Tensor) -> ctypes.Structure | None:
    """The parameters of a compressor, as its kernel takes them; signals left out are of the dtype of the tokens."""
    shape = Shape(1, case.tokens, case.dim, case.keep, CODES[case.dtype])
    given = [abi.Signal(DTYPES[signal.dtype], tuple(signal.shape)) for signal in signals]
    return abi.params_of(compressor.method.name, plugin_attributes(compressor, case), shape, given)


class Library(abi.Library):
    """A build of the kernels. Every run returns when the device is done, for tests to look at the results."""

    def __init__(self, path: Path, device: str) -> None:
        super().__init__(path)
        self.device = device

    def prepare(self, method: str, keep: int, params: ctypes.Structure | None, tokens: torch.Tensor, *signals):
        """(call, outputs): everything allocated, and full of what a kernel must not rely on."""
        batch, count, width = tokens.shape
        shape = Shape(batch, count, width, keep, DTYPES[tokens.dtype])
        size = self.workspace_bytes(method, shape, params)

        def full(*sizes: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.full(sizes, -77, dtype=dtype, device=self.device)

        outputs = Compressed(
            full(batch, keep, width, dtype=tokens.dtype),
            full(batch, keep, dtype=torch.int64),
            full(batch, keep, dtype=torch.float32),
            full(batch, count, dtype=torch.int64),
        )
        scratch = torch.full((size,), 0xFF, dtype=torch.uint8, device=self.device)  # NaN as floats, -1 as integers
        inputs = [None if part is None else part.data_ptr() for part in (tokens, *signals)]
        written = [part.data_ptr() for part in (outputs.tokens, *_rest(outputs))]
        workspace = Workspace(scratch.data_ptr(), size)

        def call(stream: int = 0, alive=(tokens, signals, scratch)) -> None:
            self.call(method, shape, params, inputs, written, workspace, stream)

        return call, outputs

    def run(self, method: str, keep: int, params: ctypes.Structure | None, tokens: torch.Tensor, *signals):
        """The outputs as NumPy arrays; bfloat16 as ml_dtypes has it."""
        call, outputs = self.prepare(
            method,
            keep,
            params,
            *(part if part is None else part.to(self.device) for part in (tokens, *signals)),
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
