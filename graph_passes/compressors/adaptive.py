"""Adaptive average pooling of a line: `count` windows that cover `side` places, as torch.nn.AdaptiveAvgPool has them.

Window i reads places floor(i side / count) to ceil((i + 1) side / count) - 1: where count does not divide side,
neighbours overlap.
"""

from __future__ import annotations

import numpy as np


def windows(side: int, count: int) -> np.ndarray:
    """What each window reads of each place, [count, side] float64, rows that sum to 1."""
    weights = np.zeros((count, side))
    for i in range(count):
        first, last = i * side // count, -(-(i + 1) * side // count)
        weights[i, first:last] = 1 / (last - first)
    return weights


def owners(side: int, count: int) -> np.ndarray:
    """The window [side] that each place belongs to: the one that reads most of it, the first among equals."""
    return windows(side, count).argmax(0)


def middles(side: int, count: int) -> np.ndarray:
    """The place [count] in the middle of each window, the earlier among two."""
    return np.array([(i * side // count + -(-(i + 1) * side // count) - 1) // 2 for i in range(count)])
