"""How many tokens are kept: `--ratio` is the share *removed*, read as an exact fraction; `--keep` says K directly."""

from __future__ import annotations

import math
from fractions import Fraction

from ..errors import RequestError


def parse_ratio(ratio: str | float | Fraction) -> Fraction:
    """Read a ratio such as ``0.85``, ``"0.85"`` or ``"8/9"`` without rounding.

    Raises:
        RequestError: not a number, or not strictly between 0 and 1.
    """
    try:
        value = Fraction(str(ratio).strip())
    except (ValueError, ZeroDivisionError):
        raise RequestError(f"ratio {ratio!r} is not a number", fix="Write --ratio 0.85 or --ratio 8/9.") from None
    if 0 < value < 1:
        return value
    hint = f" For {float(value):g} percent write --ratio {float(value) / 100:g}." if 1 < value < 100 else ""
    raise RequestError(
        f"ratio {ratio} is outside (0, 1)",
        fix=f"The ratio is the share of tokens removed: 0.85 keeps 15 %.{hint}",
    )


def tokens_kept(n: int, *, ratio: str | float | Fraction | None = None, keep: int | None = None) -> int:
    """K for `n` tokens: ``n - ceil(ratio * n)``, or `keep` itself.

    Raises:
        RequestError: both or neither given, a ratio outside (0, 1), K outside [1, n], or nothing left.
    """
    if (ratio is None) == (keep is None):
        given = "both ratio and keep were given" if keep is not None else "neither ratio nor keep was given"
        raise RequestError(given, fix="Give one of them: --ratio 0.85 (share removed) or --keep 86 (tokens kept).")
    if keep is None:
        value = parse_ratio(ratio)  # type: ignore[arg-type]
        kept = n - math.ceil(value * n)
        if kept < 1:
            raise RequestError(
                f"ratio {ratio} leaves no token of {n}", fix=f"Use --keep 1, or a ratio of at most {n - 1}/{n}."
            )
        return kept
    if not 1 <= keep <= n:
        raise RequestError(f"keep {keep} is outside 1..{n}", fix=f"The seam has {n} tokens: use --keep 1 to {n}.")
    return keep
