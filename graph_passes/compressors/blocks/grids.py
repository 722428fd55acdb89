"""The layout of tokens: the grid that methods on neighbouring tokens need, from the seam or their own parameter."""

from __future__ import annotations

import math
import re

from ....errors import RequestError
from ..base import Case

_GRID = re.compile(r"\s*(\d{1,9})(?:\s*x\s*(\d{1,9}))?(?:\s*x\s*(\d{1,9}))?\s*")


def grid_of(case: Case, given: str | None) -> tuple[int, ...]:
    """(height, width), or (length,) for audio.

    Args:
        case: with the seam's grid, if known.
        given: a method's parameter ``grid``, such as "24x24" or "1500"; it overrides the seam's.

    Raises:
        RequestError: neither is known, the grid does not have N positions, or it is a video's.
    """
    fix = f"Add --set grid=HEIGHTxWIDTH{_example(case.tokens)}, for sound --set grid={case.tokens}."
    grid = _known(case, given, fix)
    if len(grid) > 2:
        raise RequestError(
            f"this method needs an image or audio, and the grid is {_text(grid)}",
            where=_where(case),
            fix="Export one frame at a time.",
        )
    return grid


def video_grid_of(case: Case, given: str | None) -> tuple[int, int, int]:
    """(frames, height, width) of a video, whose T frames of H W tokens each form one sequence of N = T H W tokens.

    Args:
        case: with the seam's grid, if known.
        given: a method's parameter ``grid``, such as "8x12x12", or "8x144x1" if frames have no grid; it overrides.

    Raises:
        RequestError: neither is known, the grid does not have N positions, or it is not a video's.
    """
    fix = "Add --set grid=FRAMESxHEIGHTxWIDTH, for example --set grid=8x12x12."
    grid = _known(case, given, fix)
    if len(grid) != 3:
        raise RequestError(f"this method needs a video, and the grid is {_text(grid)}", where=_where(case), fix=fix)
    return grid


def places_of(case: Case, given: str | None) -> int:
    """Tokens per frame of a video, the distance to the same position in the next frame. Errors as `video_grid_of`."""
    _, height, width = video_grid_of(case, given)
    return height * width


def picture_of(case: Case, given: str | None, method: str) -> tuple[int, int]:
    """(height, width), as `grid_of`; a line is refused.

    Raises:
        RequestError: as `grid_of`, or the grid is a line.
    """
    grid = grid_of(case, given)
    if len(grid) != 2:
        raise RequestError(f"{method} needs a grid of rows and columns", fix="For sound use pool1d or conv1d.")
    return grid[0], grid[1]


def frames_of(case: Case, given: str | None) -> tuple[int, int, int]:
    """(frames, height, width) of a video or of an image, which is one frame.

    Raises:
        RequestError: neither is known, the grid does not have N positions, or it is a line.
    """
    fix = "Add --set grid=HEIGHTxWIDTH, for a video --set grid=FRAMESxHEIGHTxWIDTH."
    grid = _known(case, given, fix)
    if len(grid) == 1:
        raise RequestError(f"this method needs an image or a video, and the grid is {_text(grid)}", fix=fix)
    frames, height, width = (1, *grid) if len(grid) == 2 else grid
    return frames, height, width


def _known(case: Case, given: str | None, fix: str) -> tuple[int, ...]:
    if given is None:
        if case.grid is None:
            raise RequestError(
                "this method needs the grid of the tokens, and the model does not define it",
                where=_where(case),
                fix=fix,
            )
        return case.grid
    found = _GRID.fullmatch(given)
    if found is None:
        raise RequestError(f"grid {given!r} is not written in numbers such as 24x24", where=_where(case), fix=fix)
    grid = tuple(int(side) for side in found.groups() if side is not None)
    if math.prod(grid) != case.tokens:
        raise RequestError(
            f"grid {given} has {math.prod(grid)} positions",
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
