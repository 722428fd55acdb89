"""Percentiles of times, and how sure a ratio of two bundles is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

CONFIDENCE = 0.95
# Of fewer pairs not even the least and the most hold the median so surely.
LEAST_ROUNDS = 6


def percentiles(times: Sequence[float]) -> dict[str, Any]:
    """``p50_ms``, ``p90_ms``, ``p99_ms`` and ``samples`` of milliseconds; between two samples on the line."""
    import numpy as np

    found = {f"p{share}_ms": float(np.percentile(times, share)) for share in (50, 90, 99)}
    return {**found, "samples": len(times)}


def ratio(times: Sequence[float], of: Sequence[float]) -> dict[str, Any]:
    """How many times as long it takes, by pairs that were measured one after the other.

    Args:
        times: of each round.
        of: what they are held against, in the same rounds.

    Returns:
        ``median`` of the ratios of pairs; ``low`` and ``high``, between which the true median lies with a confidence of
        at least 95 % whatever the times are distributed like (order statistics: each pair is above it or below it, as
        a coin falls); None of fewer than `LEAST_ROUNDS` pairs.
    """
    pairs = sorted(a / b for a, b in zip(times, of, strict=True))
    at = _rank(len(pairs))
    low, high = (pairs[at], pairs[-1 - at]) if at is not None else (None, None)
    return {"median": median(pairs), "low": low, "high": high}


def _rank(count: int) -> int | None:
    """How many of `count` sorted values lie outside the interval at either end."""
    outside, found = 0.0, None
    for rank in range(count // 2):
        outside += 2 * math.comb(count, rank) / 2**count
        if outside > 1 - CONFIDENCE:
            break
        found = rank
    return found
