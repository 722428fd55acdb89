"""Merging by a known assignment: each slot becomes the plain mean of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import Case, Compressed
from .select import emit_argmax, emit_gather, emit_iota, emit_like, emit_members, emit_slots

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


def means(tokens: torch.Tensor, kept: torch.Tensor, slot: torch.Tensor) -> Compressed[torch.Tensor]:
    """Slots at kept [B, K], each the mean of its tokens by slot [B, N]; each needs at least one."""
    import torch

    x = tokens.float()
    sums = x.new_zeros(*kept.shape, x.shape[2]).scatter_add(1, slot[..., None].expand_as(x), x)
    sizes = x.new_zeros(kept.shape).scatter_add(1, slot, torch.ones_like(slot, dtype=x.dtype))
    return Compressed((sums / sizes[..., None]).to(tokens.dtype), kept, sizes, slot)


def emit_mean_rows(b: Builder, x: ir.Value, slot: ir.Value, k: int) -> tuple[ir.Value, ir.Value]:
    """Means [B, k, D] of x [B, N, D] float32 by slot [B, N] float32, and the number of tokens of each [B, k, 1]."""
    members, sizes = emit_members(b, slot, k)
    return b.op("MatMul", b.op("Div", members, sizes), x), sizes


def emit_means(b: Builder, case: Case, x: ir.Value, kept: ir.Value, slot: ir.Value) -> Compressed[ir.Value]:
    """As `means`, for x [B, N, D], kept [B, K] and slot [B, N], all float32."""
    content, sizes = emit_mean_rows(b, x, slot, case.keep)
    return Compressed(
        emit_like(b, content, case), b.cast(kept, "int64"), b.op("Squeeze", sizes, [2]), b.cast(slot, "int64")
    )


def emit_means_around(
    b: Builder, case: Case, x: ir.Value, kept: ir.Value, slot: ir.Value, rest: ir.Value
) -> Compressed[ir.Value]:
    """As `emit_means`, where a kept token is in its own slot: only the others take part in the MatMul.

    Args:
        b: the builder.
        case: with K.
        x: [B, N, D] float32.
        kept: [B, K] float32.
        slot: [B, N] float32.
        rest: [B, N - K] int64, the tokens that are not kept, in any order.
    """
    members, others = emit_members(b, b.op("GatherElements", slot, rest, axis=1), case.keep)
    index = b.cast(kept, "int64")
    sums = b.op("Add", b.op("MatMul", members, emit_gather(b, x, rest)), emit_gather(b, x, index))
    sizes = b.op("Add", others, 1.0)
    content = emit_like(b, b.op("Div", sums, sizes), case)
    return Compressed(content, index, b.op("Squeeze", sizes, [2]), b.cast(slot, "int64"))


def emit_nearest(b: Builder, closeness: ir.Value, kept: ir.Value, n: int, k: int) -> ir.Value:
    """The slot [B, n] float32 closest to each token, the lowest among equals; a kept token goes to its own.

    Args:
        b: the builder.
        closeness: [B, k, n] float32, of slots to tokens.
        kept: [B, k] float32, positions of the slots.
        n: tokens.
        k: slots.
    """
    nearest = b.op("Squeeze", emit_argmax(b, closeness, 1, (1, k, 1)), [1])
    own = emit_slots(b, kept, n, emit_iota(b, 1, k))
    return b.op("Where", b.op("GreaterOrEqual", own, 0.0), own, nearest)
