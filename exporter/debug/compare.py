"""How far a value of B is from the same value of A: `proof.metrics`, and what an inner value needs besides."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..proof import metrics
from ..proof.metrics import Check

# A row that is this small beside the largest number of its value is made of roundings: a hundred of float32, two of
# float16, four of bfloat16.
_NOISE = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 3e-2}
# What is below this may be a mask, which a softmax turns into zeros.
_MASK = -1e3
# From where on float16 is infinite.
_LARGEST = {"fp16": 65504.0}


@dataclass(frozen=True)
class Threshold:
    """What counts as a difference.

    Attributes:
        precision: of the less precise side.
        cosine: the least that passes, of every row.
        norm: the largest distance of a norm ratio from 1, of every row.
    """

    precision: str
    cosine: float
    norm: float

    @staticmethod
    def of(a: str, b: str, cosine: float | None, norm: float | None) -> Threshold:
        """That of the less precise of two sides, where nothing else is asked for."""
        order = list(metrics.GATES)
        precision = max(a, b, key=order.index)
        least, most = metrics.GATES[precision]
        return Threshold(precision, least if cosine is None else cosine, most if norm is None else norm)


def compare(name: str, a: np.ndarray, b: np.ndarray, threshold: Threshold) -> Check:
    """Compare B's value with A's.

    NaN and inf at the same places are equal, and so is a value that is the same number everywhere: a mask may be both.
    Where both are masked, only the rest is compared. Axes of length 1 may be there or not.
    """
    if a.shape != b.shape:
        without = [tuple(size for size in x.shape if size != 1) for x in (a, b)]
        if without[0] != without[1]:
            detail = f"shape {list(b.shape)} instead of {list(a.shape)}"
            return Check("", name, False, 0.0, 0.0, metrics.LARGEST, detail=detail)
        b = b.reshape(a.shape)
    if a.dtype.kind in "iub" and b.dtype.kind in "iub":
        return metrics.compare("", name, a, b, threshold.precision)
    a, b = a.astype(np.float64), b.astype(np.float64)
    if (detail := _not_finite(a, b, threshold.precision)) != "":
        return Check("", name, False, 0.0, 0.0, metrics.LARGEST, detail=detail)
    hidden = _masked(a, b) | ~np.isfinite(a)
    a, b = (np.where(hidden, 0.0, x) for x in (a, b))
    largest = float(np.abs(a).max(initial=0.0))
    distance = float(np.abs(a - b).max(initial=0.0))
    small = distance <= _NOISE[threshold.precision] * largest
    if a.size < 2 or np.ptp(a) == 0:
        ratio = float(np.linalg.norm(b) / np.linalg.norm(a)) if largest else 1.0
        detail = "" if small else f"A is {a.flat[0]:g} everywhere" if a.size else ""
        return Check("", name, small, 1.0, ratio, distance, detail=detail)
    rows = a.shape if a.shape[-1] > 1 else (-1, a.shape[-2] if a.ndim > 1 else 1)
    gate = (threshold.cosine, threshold.norm)
    found = metrics.compare("", name, a.reshape(rows), b.reshape(rows), threshold.precision, gate)
    return replace(found, ok=True, detail="") if small else found


def _masked(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where both have a mask: numbers so far below all others that these would not count beside them."""
    below = a < _MASK
    if not below.any() or below.all():
        return np.zeros(a.shape, bool)
    others = np.abs(a[~below & np.isfinite(a)]).max(initial=0.0)
    far = min(_MASK, -30 * others)
    return (a < far) & (b < far) if a[below].max() < far else np.zeros(a.shape, bool)


def _not_finite(a: np.ndarray, b: np.ndarray, precision: str) -> str:
    """Why values of A and B that are not all finite differ; empty where they do not."""
    bad = ~(np.isfinite(a) & np.isfinite(b))
    bad &= ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not bad.any():
        return ""
    at = np.isfinite(a) & bad
    if not at.any():
        return f"{int(bad.sum())} NaN or inf in A that B has not"
    nan, inf = int(np.isnan(b[at]).sum()), int(np.isinf(b[at]).sum())
    reach = float(np.abs(a[at]).max())
    limit = _LARGEST.get(precision)
    why = f", beyond the {limit:g} of float16" if limit and reach > limit else ""
    what = " and ".join(f"{count} {kind}" for count, kind in ((nan, "NaN"), (inf, "inf")) if count)
    return f"{what} in B, where A reaches {reach:.4g}{why}"
