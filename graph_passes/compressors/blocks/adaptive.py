"""Adaptive average pooling of a line: `count` windows that cover `side` positions, as in torch.nn.AdaptiveAvgPool.

Window i reads positions floor(i side / count) to ceil((i + 1) side / count) - 1: if count does not divide side,
neighbours overlap.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ....lazy import np

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


def windows(side: int, count: int) -> np.ndarray:
    """The weight of each position in each window, [count, side] float64, rows that sum to 1."""
    weights = np.zeros((count, side))
    for i in range(count):
        first, last = i * side // count, -(-(i + 1) * side // count)
        weights[i, first:last] = 1 / (last - first)
    return weights


def owners(side: int, count: int) -> np.ndarray:
    """The window [side] that each position belongs to: the one that reads most of it, the first among equals."""
    return windows(side, count).argmax(0)


def middles(side: int, count: int) -> np.ndarray:
    """The position [count] in the middle of each window, the earlier of two."""
    return np.array([(i * side // count + -(-(i + 1) * side // count) - 1) // 2 for i in range(count)])


def placed(grid: tuple[int, ...], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Each slot's middle position, and the slot that owns each position; grid and shape are row by row."""
    kept, slots = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for side, count in zip(grid, shape):
        kept = (kept[:, None] * side + middles(side, count)).ravel()
        slots = (slots[:, None] * count + owners(side, count)).ravel()
    return kept, slots


def emit_pooled(b: Builder, x: ir.Value, grid: tuple[int, ...], shape: tuple[int, ...], dim: int) -> ir.Value:
    """Pool x, float32 whose last axes hold a grid row by row and `dim` channels; axis by axis one MatMul."""
    for axis, (side, count) in enumerate(zip(grid, shape)):
        if count != side:
            x = b.op("Reshape", x, [-1, side, math.prod(grid[axis + 1 :]) * dim])
            x = b.op("MatMul", windows(side, count).astype(np.float32), x)
    return x


def middle_places(grid: tuple[int, ...], shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Each slot's middle [K] int64 by PyTorch's own pooling: the mean position of a window, a half rounded down."""
    import torch
    from torch.nn.functional import adaptive_avg_pool1d

    kept = torch.zeros(1, dtype=torch.float64, device=device)
    for side, count in zip(grid, shape):
        line = torch.arange(side, dtype=torch.float64, device=device)[None, None]
        kept = (kept[:, None] * side + (adaptive_avg_pool1d(line, count).flatten() - 0.25).round()).flatten()
    return kept.long()
