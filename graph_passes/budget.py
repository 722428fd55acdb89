"""How many tokens are kept: `--ratio` is the share *removed*, read as an exact fraction; `--keep` says K directly."""

from __future__ import annotations

import math
import operator
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ..errors import RequestError

# In the digits 0 to 9 alone: Python also reads those of other scripts, and underscores between them. An exact
# 1e-999999999 would fill the memory.
_PLAIN = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]{1,3})?(/[-+]?[0-9]+)?")


def parse_ratio(ratio: str | float | Fraction) -> Fraction:
    """Read a ratio such as ``0.85``, ``"0.85"`` or ``"8/9"`` without rounding.

    Raises:
        RequestError: not a number, or not strictly between 0 and 1.
    """
    text = str(ratio).strip()
    try:
        value = Fraction(text if _PLAIN.fullmatch(text) else "")
    except (ValueError, ZeroDivisionError):
        raise RequestError(f"ratio {ratio!r} is not a number", fix="Write --ratio 0.85 or --ratio 8/9.") from None
    if 0 < value < 1:
        return value
    hint = f" For {float(value):g} percent write --ratio {float(value) / 100:g}." if 1 < value < 100 else ""
    raise RequestError(
        f"ratio {ratio} is outside (0, 1)",
        fix=f"The ratio is the share of tokens removed: 0.85 keeps 15 %.{hint}",
    )


def ratio_text(ratio: str | float | Fraction) -> str:
    """A ratio as it stands in names: ``.9``, ``0.90`` and ``0.9`` are all ``0.9``, and ``16/18`` is ``8/9``.

    Raises:
        RequestError: as `parse_ratio`.
    """
    value, text = parse_ratio(ratio), str(ratio).strip()
    return str(value) if "/" in text else format(Decimal(text).normalize(), "f")


def whole_keep(keep: Any) -> int:
    """K as an int, from any type of whole number.

    Raises:
        RequestError: not a whole number; 5.0, "5" and True are refused.
    """
    try:
        if isinstance(keep, bool):
            raise TypeError
        return operator.index(keep)
    except TypeError:
        raise RequestError(f"keep {keep!r} is not a whole number", fix="Write for example keep=86.") from None


def check_budget(*, ratio: str | float | Fraction | None, keep: int | None, least: int = 1) -> None:
    """Check what does not depend on the number of tokens.

    Args:
        ratio: None with `keep`.
        keep: None with `ratio`.
        least: K; 0 where all tokens may be removed.

    Raises:
        RequestError: both or neither given, a ratio outside (0, 1), or K below `least`.
    """
    _one_of(ratio, keep)
    if keep is None:
        parse_ratio(ratio)  # type: ignore[arg-type]
    elif whole_keep(keep) < least:
        raise RequestError(f"keep {keep} leaves no token", fix=f"Use --keep {least} or more.")


def tokens_kept(n: int, *, ratio: str | float | Fraction | None = None, keep: int | None = None, least: int = 1) -> int:
    """K for `n` tokens: ``n - ceil(ratio * n)``, or `keep` itself, at least `least`.

    Raises:
        RequestError: both or neither given, a ratio outside (0, 1), K outside [least, n], or nothing left by a ratio.
    """
    _one_of(ratio, keep)
    if keep is None:
        value = parse_ratio(ratio)  # type: ignore[arg-type]
        kept = n - math.ceil(value * n)
        if kept < 1:
            raise RequestError(
                f"ratio {ratio} leaves no token of {n}", fix=f"Use --keep 1, or a ratio of at most {n - 1}/{n}."
            )
        return kept
    whole = whole_keep(keep)
    if not least <= whole <= n:
        fix = f"The seam has {n} tokens: use --keep {least} to {n}."
        raise RequestError(f"keep {whole} is outside {least}..{n}", fix=fix)
    return whole


def _one_of(ratio: str | float | Fraction | None, keep: int | None) -> None:
    if (ratio is None) == (keep is None):
        given = "both ratio and keep were given" if keep is not None else "neither ratio nor keep was given"
        raise RequestError(given, fix="Give one of them: --ratio 0.85 (share removed) or --keep 86 (tokens kept).")
