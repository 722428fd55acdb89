"""Smaller pictures at the same number of tokens: what a user can have without any compressor.

The encoder is the model's own, uncompressed, over the same weights and for smaller pictures, of which it gives at most
K tokens. It runs in PyTorch. A picture is the model's usual input, resampled (bicubic, antialiased): it shows the same
part of the scene. The grid has the shape of the model's own, to the nearest token.

Language graphs take the tokens for uncompressed ones, each at the place in the middle of the part of the picture that
it shows, as `pool` has it: the positions that the language model knows of pictures stay those of the whole grid. Their
weight in attention is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .answers import Encoded

if TYPE_CHECKING:
    import torch

    from ...graph_passes.seams.seam import Seam
    from ..sources.source import GraphSource, Source
    from .question_set import QuestionSet

NAME = "resolution"


def smaller_encoder(source: Source, seam: Seam, keep: int) -> tuple[GraphSource | None, str]:
    """The encoder for the largest pictures of which it gives at most `keep` tokens.

    Args:
        source: of the model.
        seam: where methods go, which says how many tokens there are to keep `keep` of.
        keep: K.

    Returns:
        The encoder, whose `grid` is that of its tokens, and nothing; or None, and why there is none.
    """
    grid = source.encoder.grid
    if grid is None or len(grid) != 2 or math.prod(grid) != seam.tokens or len(source.encoder.inputs) > 1:
        return None, "its tokens are not the grid of a picture"
    found = next((made for smaller in grids(grid, keep) if (made := source.smaller_encoder(smaller))), None)
    return found, "" if found else "its encoder takes pictures of one size"


def grids(grid: tuple[int, int], keep: int) -> Iterator[tuple[int, int]]:
    """The grids of at most `keep` tokens with the shape of `grid`, to the nearest token, the largest first."""
    long, short = max(grid), min(grid)
    for side in range(long, 0, -1):
        # Half a token more is a whole one, in whole numbers.
        other = max(1, (2 * side * short + long) // (2 * long))
        if side * other <= keep:
            yield (side, other) if grid[0] == long else (other, side)


def encode(question_set: QuestionSet, encoder: GraphSource) -> Encoded:
    """Run `encoder` of `smaller_encoder` on the smaller inputs of `question_set`."""
    import torch

    source, shape = question_set.source, next(iter(encoder.inputs.values())).shape
    assert encoder.module is not None and encoder.grid is not None, "it was made for its grid"
    rows: list[dict[str, torch.Tensor]] = []
    with torch.inference_mode():
        for picture in question_set.inputs:
            found = encoder.module(resized(torch.from_numpy(picture), (shape[-2], shape[-1])))
            parts = found if isinstance(found, tuple) else (found,)
            rows.append(dict(zip(encoder.outputs, parts, strict=True)))
    tokens = torch.cat([row[encoder.outputs[0]] for row in rows]).numpy()
    answer = torch.cat([row[source.answer] for row in rows]).numpy() if source.answer else None
    kept, assignment = places(source.encoder.grid or (), encoder.grid)
    many = (len(tokens), 1)
    sizes = np.ones(tokens.shape[:2], np.float32)
    return Encoded(tokens, np.tile(kept, many), sizes, np.tile(assignment, many), question_set.of, answer)


def resized(picture: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[1, C, H, W] float32 at another (height, width), bicubic and antialiased; the same where it has that size."""
    from torch.nn import functional as F

    if picture.shape[-2:] == size:
        return picture
    return F.interpolate(picture, size=size, mode="bicubic", antialias=True, align_corners=False)


def places(grid: tuple[int, ...], smaller: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where the tokens of a smaller grid stand in a grid, and which of them shows each place.

    Returns:
        [K] int64, the middle of what each token shows, a half rounded down; [N] int64, the token of each place.
    """
    kept, slots = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for side, count in zip(grid, smaller, strict=True):
        middle = -((2 * count - (2 * np.arange(count) + 1) * side) // (2 * count))
        slot = (2 * np.arange(side) + 1) * count // (2 * side)
        kept = (kept[:, None] * side + middle).ravel()
        slots = (slots[:, None] * count + slot).ravel()
    return kept, slots
