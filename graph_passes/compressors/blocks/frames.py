"""Videos, frame by frame: differences from the previous frame, and selections that always keep the first one whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....errors import RequestError
from ..base import Case
from .cosine import emit_unit
from .select import check_keep

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


def check_first_frame(case: Case, places: int) -> None:
    """h w <= K <= N: the first frame is kept whole."""
    if case.keep < places <= case.tokens:
        raise RequestError(
            f"keep {case.keep} is less than the first frame, which is kept whole and has {places} tokens",
            where=f"{case.tokens} tokens of {case.dim} channels",
            fix=f"Use --keep {places} to {case.tokens}.",
        )
    check_keep(case)


def neighbours(x: torch.Tensor, places: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [B, N - P, D] of all frames but the first, and those at their positions one frame earlier."""
    return x[:, places:], x[:, :-places]


def emit_neighbours(b: Builder, x: ir.Value, n: int, places: int) -> tuple[ir.Value, ir.Value]:
    """As `neighbours`, for x [B, n, D]."""
    return b.op("Slice", x, [places], [n], [1]), b.op("Slice", x, [0], [n - places], [1])


def cosines_before(x: torch.Tensor, places: int) -> torch.Tensor:
    """Cosine [B, N - P] of each token of x [B, N, D] float32 after the first frame with the one a frame earlier."""
    from torch.nn.functional import normalize

    now, before = neighbours(normalize(x, dim=2), places)
    return (now * before).sum(2)


def emit_cosines_before(b: Builder, x: ir.Value, n: int, places: int) -> ir.Value:
    """As `cosines_before`, for x [B, n, D] float32."""
    now, before = emit_neighbours(b, emit_unit(b, x), n, places)
    return b.op("ReduceSum", b.op("Mul", now, before), [2], keepdims=0)
