"""Matrices in blocks of small integers, each with a scale: the numbers are those of ONNX Runtime's quantiser."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...errors import MissingError

Weights = Literal["int8", "int4"]
BITS: dict[str, int] = {"int8": 8, "int4": 4}
# Numbers that share a scale.
BLOCK = 32


@dataclass(frozen=True)
class Blocks:
    """A matrix [K, N], each column of which is cut into blocks of `BLOCK` numbers.

    Attributes:
        packed: uint8 [N, K / BLOCK, BLOCK * bits / 8], the numbers above the least one that the bits hold; of two in a
            byte the first is the lower half.
        scales: [N, K / BLOCK], in the dtype of the matrix.
        bits: 8 or 4.
    """

    packed: np.ndarray
    scales: np.ndarray
    bits: int

    def signed(self) -> np.ndarray:
        """The numbers as int8 [K, N], -8 to 7 with four bits."""
        numbers = self.packed.reshape(len(self.packed), -1)
        if self.bits == 4:
            numbers = np.stack([numbers & 15, numbers >> 4], -1).reshape(len(numbers), -1)
        return (numbers.astype(np.int16) - (1 << self.bits - 1)).astype(np.int8).T


def in_blocks(matrix: np.ndarray, weights: Weights) -> Blocks:
    """Quantise a matrix [K, N] of float32 or float16, symmetrically; `BLOCK` divides K.

    Raises:
        MissingError: onnxruntime is not installed, or too old to write these weights.
    """
    bits = BITS[weights]
    try:
        quantizer = _library()
        config = quantizer.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
        by = quantizer.DefaultWeightOnlyQuantizer(config)
        packed, scales, _ = by.qbits_block_quant(np.ascontiguousarray(matrix))
    except (ImportError, TypeError, AttributeError) as error:
        raise MissingError(
            f"{weights} weights are written by onnxruntime's quantiser, which is not installed or too old",
            fix='Run: pip install -U "onnxruntime>=1.23"',
        ) from error
    return Blocks(packed, scales.reshape(len(packed), -1), bits)


def by_column(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a matrix [K, N] of float32 or float16 to int8, with one scale [N] for each column."""
    scales = np.abs(matrix).max(0).astype(np.float32) / 127
    scales = np.where(scales > 0, scales, 1).astype(matrix.dtype)
    numbers = np.rint(matrix.astype(np.float32) / scales.astype(np.float32)).clip(-127, 127)
    return numbers.astype(np.int8), scales


def _library() -> Any:
    """The module of ONNX Runtime; importing it sets up the root logger, which is left as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
