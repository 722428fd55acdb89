"""Two measures of how far a tensor is from its reference: worst cosine and worst norm ratio over its rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...graph_passes import agreement

# Precision -> (least cosine, largest distance of the norm ratio from 1).
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
GATES = {precision: agreement.GATES[dtype] for precision, dtype in _DTYPES.items()}

# Stands for an infinite distance, because JSON has no infinity.
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Check:
    """The verdict on one tensor of one part.

    Attributes:
        cosine: the worst over all rows (last axis) and samples.
        norm_ratio: norm of the result over norm of the reference, the one farthest from 1.
        max_abs: largest absolute difference.
        flipped: for a compressor, picks that differ from the reference because two scores are equal within tolerance.
        detail: why it failed, or another remark.
    """

    part: str
    tensor: str
    ok: bool
    cosine: float
    norm_ratio: float
    max_abs: float
    flipped: int = 0
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """A flat JSON object."""
        return asdict(self)


def compare(
    part: str,
    tensor: str,
    reference: np.ndarray,
    got: np.ndarray,
    precision: str,
    gate: tuple[float, float] | None = None,
) -> Check:
    """Compare `got` with `reference` row by row.

    Cosine alone misses a wrong scale, and a norm alone a wrong direction. Rows whose norm is below a millionth of the
    largest are noise and count only in `max_abs`. A reference that is zero or constant fails, because agreement with
    it would prove nothing. A `gate`, (least cosine, largest distance of the norm ratio from 1), stands for that of the
    precision.
    """
    if reference.shape != got.shape:
        detail = f"shape {list(got.shape)} instead of {list(reference.shape)}"
        return Check(part, tensor, False, 0.0, 0.0, LARGEST, detail=detail)
    if reference.dtype.kind in "iub":
        wrong = int((reference != got).sum())
        detail = f"{wrong} of {reference.size} integers differ" if wrong else ""
        return Check(part, tensor, not wrong, float(not wrong), 1.0, float(wrong), detail=detail)
    a, b = reference.astype(np.float64), got.astype(np.float64)
    if not np.isfinite(a).all():
        count = int((~np.isfinite(a)).sum())
        return Check(part, tensor, False, 0.0, 0.0, LARGEST, detail=f"{count} NaN or inf in the reference")
    if not np.isfinite(b).all():
        return Check(part, tensor, False, 0.0, 0.0, LARGEST, detail=f"{int((~np.isfinite(b)).sum())} NaN or inf")
    if a.size > 1 and np.ptp(a) == 0:
        detail = f"the reference is {a.flat[0]:g} everywhere, so agreement would prove nothing"
        return Check(part, tensor, False, 0.0, 0.0, 0.0, detail=detail)
    max_abs = float(np.abs(a - b).max())
    rows_a, rows_b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    norm_a, norm_b = np.linalg.norm(rows_a, axis=1), np.linalg.norm(rows_b, axis=1)
    real = norm_a > 1e-6 * norm_a.max()
    dots = np.einsum("ij,ij->i", rows_a, rows_b)[real]
    cosine = float((dots / np.maximum(norm_a[real] * norm_b[real], 1e-300)).min())
    ratios = norm_b[real] / norm_a[real]
    norm_ratio = float(ratios[np.abs(ratios - 1).argmax()])
    least, most = gate or GATES[precision]
    ok = cosine >= least and abs(norm_ratio - 1) <= most
    # A row that must be zero has no direction, so only its norm is judged.
    stray = float(norm_b[~real].max(initial=0.0))
    if stray > most * norm_a.max():
        return Check(
            part, tensor, False, cosine, norm_ratio, max_abs, detail=f"a row that must be zero has norm {stray:g}"
        )
    detail = "" if ok else f"needs cosine >= {least} and norm ratio within {most:g} of 1"
    return Check(part, tensor, ok, cosine, norm_ratio, max_abs, detail=detail)
