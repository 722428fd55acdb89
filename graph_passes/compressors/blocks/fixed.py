"""Compressors whose slots do not depend on the content of the tokens: the assignment is a constant of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....lazy import np
from ..base import Case, Compressed
from .select import emit_like, emit_rows

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


def fixed(
    tokens: torch.Tensor, content: torch.Tensor, kept: torch.Tensor, slots: torch.Tensor, *, merges: bool = True
) -> Compressed[torch.Tensor]:
    """The same kept positions [K] and slots of tokens [N] in every batch element, -1 for a lost token.

    Args:
        tokens: [B, N, D], whose dtype the result has.
        content: [B, K, D'].
        kept: [K] int64.
        slots: [N] int64.
        merges: whether sizes are the number of tokens in a slot, at least 1, or all 1.
    """
    batch = tokens.shape[0]
    sizes = kept.new_ones(kept.shape).float()
    if merges:
        sizes = slots[slots >= 0].bincount(minlength=len(kept)).clamp(min=1).float()
    return Compressed(content.to(tokens.dtype), kept.repeat(batch, 1), sizes.repeat(batch, 1), slots.repeat(batch, 1))


def emit_fixed_map(
    b: Builder,
    case: Case,
    tokens: ir.Value,
    content: ir.Value,
    kept: np.ndarray,
    slots: np.ndarray,
    *,
    merges: bool = True,
) -> Compressed[ir.Value]:
    """As `fixed`; content [B, K, D'] is float32."""
    sizes = np.ones(case.keep)
    if merges:
        sizes = np.maximum(np.bincount(slots[slots >= 0], minlength=case.keep), 1)
    return Compressed(
        emit_like(b, content, case),
        emit_rows(b, tokens, kept.astype(np.int64)),
        emit_rows(b, tokens, sizes.astype(np.float32)),
        emit_rows(b, tokens, slots.astype(np.int64)),
    )


def without_positions(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """kept_indices [K] and slots [N] of slots without positions: evenly spaced, and no token belongs to one slot."""
    kept = (2 * np.arange(case.keep, dtype=np.int64) + 1) * case.tokens // (2 * case.keep)
    return kept, np.full(case.tokens, -1, np.int64)


def resampled(case: Case, tokens: torch.Tensor, content: torch.Tensor) -> Compressed[torch.Tensor]:
    """Slots [B, K, D'] without positions, each of size 1."""
    import torch

    kept, slots = (torch.from_numpy(each).to(tokens.device) for each in without_positions(case))
    return fixed(tokens, content, kept, slots, merges=False)


def emit_resampled(b: Builder, case: Case, tokens: ir.Value, content: ir.Value) -> Compressed[ir.Value]:
    """As `resampled`; content is float32."""
    return emit_fixed_map(b, case, tokens, content, *without_positions(case), merges=False)
