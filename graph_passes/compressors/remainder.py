"""The fused remainder: of K slots one holds all the tokens that were not kept, weighted by their attention.

For K - 1 kept tokens and attention a [N], the last slot is the sum of a_j x_j over all others, as EViT and PruMerge
have it: attention sums to 1 over a row of the softmax, so the weights are not normalised again. The slot inherits the
position of the token that would have been kept next, and so the slots stay in spatial order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import RequestError
from . import select
from .base import Case, Compressed

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..builder import Builder


def check_fused(case: Case) -> None:
    """Raise `RequestError` unless 2 <= K < N: one token at least is kept, and two at least are fused."""
    if not 2 <= case.keep < case.tokens:
        raise RequestError(
            f"keep {case.keep} is outside 2..{case.tokens - 1}: one slot is for all tokens that are not kept",
            where=f"{case.tokens} tokens of {case.dim} channels",
            fix=f"Use --keep 2 to {case.tokens - 1}." if case.tokens > 2 else "",
        )


def seats(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [B, k] of the k highest scores [B, N], ascending, and which of them is the last in rank [B, k] bool."""
    kept, rank = select.top_k(scores, k).sort(dim=1)
    return kept, rank == k - 1


def fuse(
    tokens: torch.Tensor, content: torch.Tensor, attention: torch.Tensor, kept: torch.Tensor, seat: torch.Tensor
) -> Compressed[torch.Tensor]:
    """Put the remainder into the slot that `seat` [B, K] marks; the other slots have `content` [B, K, D] float32."""
    n, k = attention.shape[1], kept.shape[1]
    slots = select.slots_of(kept, n)
    last = seat.int().argmax(1, keepdim=True)
    lost = (slots < 0) | (slots == last)
    fused = (attention * lost)[:, None] @ tokens.float()
    return Compressed(
        fused.where(seat[..., None], content).to(tokens.dtype),
        kept,
        1.0 + (n - k) * seat.float(),
        last.where(lost, slots),
    )


def emit_seats(b: Builder, scores: ir.Value, k: int, n: int) -> tuple[ir.Value, ir.Value]:
    """As `seats`: positions [B, k] float32 and which is the last in rank [B, k] bool, for scores [B, n] float32."""
    _, best = select.emit_top_k(b, scores, k, n)
    kept, rank = select.emit_sort(b, best, k)
    return kept, b.op("Equal", rank, k - 1)


def emit_fuse(
    b: Builder,
    case: Case,
    x: ir.Value,
    content: ir.Value,
    attention: ir.Value,
    kept: ir.Value,
    seat: ir.Value,
) -> Compressed[ir.Value]:
    """As `fuse`, for x [B, N, D] and content [B, K, D] float32."""
    n, k = case.tokens, case.keep
    # Both the tokens that are lost and the one whose position the slot has go into it.
    own = select.emit_slots(b, kept, n, b.op("Where", seat, -1.0, select.emit_iota(b, 1, k)))
    lost = b.op("Less", own, 0.0)
    weights = b.op("Unsqueeze", b.op("Where", lost, attention, 0.0), [1])
    last = b.op("ReduceMax", b.op("Where", seat, select.emit_iota(b, 1, k), -1.0), [1], keepdims=1)
    merged = b.op("Where", b.op("Unsqueeze", seat, [2]), b.op("MatMul", weights, x), content)
    return Compressed(
        select.emit_like(b, merged, case),
        b.cast(kept, "int64"),
        b.op("Where", seat, float(n - k + 1), 1.0),
        b.cast(b.op("Where", lost, last, own), "int64"),
    )
