"""How tokens lie: the grid that a method which works on neighbours needs, from the seam or from its own parameter."""

from __future__ import annotations

import math
import re

from ....errors import RequestError
from ..base import Case

_GRID = re.compile(r"\s*(\d+)(?:\s*x\s*(\d+))?(?:\s*x\s*(\d+))?\s*")


def grid_of(case: Case, given: str | None) -> tuple[int, ...]:
    """(height, width), or (length,) for sound.

    Args:
        case: with the seam's grid, where it is known.
        given: a method's parameter ``grid``, such as "24x24" or "1500"; it wins over the seam's.

    Raises:
        RequestError: neither is known, or the grid does not have N places, or it is one of a video.
    """
    fix = f"Add --set grid=HEIGHTxWIDTH{_example(case.tokens)}, for sound --set grid={case.tokens}."
    grid = _known(case, given, fix)
    if len(grid) > 2:
        raise RequestError(
            f"this method takes a picture or a sound, and the grid is {_text(grid)}",
            where=_where(case),
            fix="Export one frame at a time.",
        )
    return grid


def video_grid_of(case: Case, given: str | None) -> tuple[int, int, int]:
    """(frames, height, width) of a video, whose T frames of H W tokens each are one set of N = T H W tokens in a row.

    Args:
        case: with the seam's grid, where it is known.
        given: a method's parameter ``grid``, such as "8x12x12", or "8x144x1" where frames have no grid; it wins.

    Raises:
        RequestError: neither is known, the grid does not have N places, or it is not one of a video.
    """
    fix = "Add --set grid=FRAMESxHEIGHTxWIDTH, for example --set grid=8x12x12."
    grid = _known(case, given, fix)
    if len(grid) != 3:
        raise RequestError(f"this method takes a video, and the grid is {_text(grid)}", where=_where(case), fix=fix)
    return grid


def places_of(case: Case, given: str | None) -> int:
    """Tokens of one frame of a video: from a token to that at its place a frame later. Errors as `video_grid_of`."""
    _, height, width = video_grid_of(case, given)
    return height * width


def picture_of(case: Case, given: str | None, method: str) -> tuple[int, int]:
    """(height, width), as `grid_of`; a line is refused.

    Raises:
        RequestError: as `grid_of`, or the grid is a line.
    """
    grid = grid_of(case, given)
    if len(grid) != 2:
        raise RequestError(f"{method} takes a grid of rows and columns", fix="For sound use pool1d or conv1d.")
    return grid[0], grid[1]


def frames_of(case: Case, given: str | None) -> tuple[int, int, int]:
    """(frames, height, width) of a video or of a picture, which is one frame.

    Raises:
        RequestError: neither is known, the grid does not have N places, or it is a line.
    """
    fix = "Add --set grid=HEIGHTxWIDTH, for a video --set grid=FRAMESxHEIGHTxWIDTH."
    grid = _known(case, given, fix)
    if len(grid) == 1:
        raise RequestError(f"this method takes a picture or a video, and the grid is {_text(grid)}", fix=fix)
    frames, height, width = (1, *grid) if len(grid) == 2 else grid
    return frames, height, width


def _known(case: Case, given: str | None, fix: str) -> tuple[int, ...]:
    if given is None:
        if case.grid is None:
            raise RequestError(
                "this method needs to know how the tokens lie, and the model does not say", where=_where(case), fix=fix
            )
        return case.grid
    found = _GRID.fullmatch(given)
    if found is None:
        raise RequestError(f"grid {given!r} is not written in numbers such as 24x24", where=_where(case), fix=fix)
    grid = tuple(int(side) for side in found.groups() if side is not None)
    if math.prod(grid) != case.tokens:
        raise RequestError(
            f"grid {given} has {math.prod(grid)} places",
            where=_where(case),
            fix="Their product is the number of tokens.",
        )
    return grid


def _where(case: Case) -> str:
    return f"{case.tokens} tokens of {case.dim} channels"


def _text(grid: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in grid)


def _example(tokens: int) -> str:
    side = math.isqrt(tokens)
    return f", for example --set grid={side}x{side}" if side * side == tokens else ""
