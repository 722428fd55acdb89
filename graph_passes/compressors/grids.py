"""How tokens lie: the grid that a method which works on neighbours needs, from the seam or from its own parameter."""

from __future__ import annotations

import math
import re

from ...errors import RequestError
from .base import Case

_GRID = re.compile(r"\s*(\d+)(?:\s*x\s*(\d+))?\s*")


def grid_of(case: Case, given: str | None) -> tuple[int, ...]:
    """(height, width), or (length,) for sound.

    Args:
        case: with the seam's grid, where it is known.
        given: a method's parameter ``grid``, such as "24x24" or "1500"; it wins over the seam's.

    Raises:
        RequestError: neither is known, or the grid does not have N places, or it is one of a video.
    """
    where = f"{case.tokens} tokens of {case.dim} channels"
    if given is None:
        if case.grid is None:
            raise RequestError(
                "this method needs to know how the tokens lie, and the model does not say",
                where=where,
                fix=f"Add --set grid=HEIGHTxWIDTH{_example(case.tokens)}, for sound --set grid={case.tokens}.",
            )
        if len(case.grid) > 2:
            raise RequestError(
                f"this method takes a picture or a sound, and the grid is {_text(case.grid)}",
                where=where,
                fix="Export one frame at a time.",
            )
        return case.grid
    found = _GRID.fullmatch(given)
    if found is None:
        raise RequestError(
            f"grid {given!r} is not HEIGHTxWIDTH",
            where=where,
            fix=f"Write for example --set grid=24x24, for sound --set grid={case.tokens}.",
        )
    grid = tuple(int(side) for side in found.groups() if side is not None)
    if math.prod(grid) != case.tokens:
        raise RequestError(
            f"grid {given} has {math.prod(grid)} places", where=where, fix="Height times width is the number of tokens."
        )
    return grid


def _text(grid: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in grid)


def _example(tokens: int) -> str:
    side = math.isqrt(tokens)
    return f", for example --set grid={side}x{side}" if side * side == tokens else ""
