"""Fixed counts: how many slots each part of a video gets, and the best of each part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ....lazy import np
from .select import emit_iota, emit_rows, emit_top_k

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


def share(k: int, room: Sequence[int]) -> list[int]:
    """k divided in proportion to `room`, in whole numbers that differ from the exact shares by less than 1.

    No part gets more than its room, provided k is at most their sum.
    """
    total = sum(room)
    ends = [k * sum(room[:i]) // total for i in range(len(room) + 1)]
    return [end - start for start, end in pairwise(ends)]


def share_one_each(k: int, room: Sequence[int]) -> list[int]:
    """As `share`, but at least 1 for each part; k must be at least their number, and each needs room for one."""
    spare = [size - 1 for size in room]
    more = share(k - len(room), spare) if any(spare) else spare
    return [1 + part for part in more]


def highest_of_each(scores: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Which of scores [B, G, M] are the counts[g] highest of part g, bool; the lowest index first among equals."""
    import torch

    rank = scores.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
    return rank < torch.tensor(counts, device=scores.device)[:, None]


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """The positions [B, K] at which mask [B, N] is true, ascending; each row has the same number."""
    return mask.nonzero()[:, 1].view(len(mask), -1)


def emit_highest_of_each(b: Builder, scores: ir.Value, counts: Sequence[int], m: int) -> ir.Value:
    """As `highest_of_each`, for scores [B, G, m] float32."""
    parts, most = len(counts), max(counts)
    if not most:
        return emit_rows(b, scores, np.zeros((parts, m), bool))
    _, best = emit_top_k(b, b.op("Reshape", scores, [-1, m]), most, m)
    best = b.op("Reshape", b.cast(best, "float32"), [-1, parts, most])
    if min(counts) < most:
        best = b.op("Where", b.const((np.arange(most) < np.array(counts)[:, None])[None]), best, -1.0)
    here = b.op("Equal", b.op("Unsqueeze", best, [3]), emit_iota(b, 1, 1, 1, m))
    return b.op("Greater", b.op("ReduceMax", b.cast(here, "float32"), [2], keepdims=0), 0.0)


def emit_positions(b: Builder, mask: ir.Value, k: int, n: int, positions: ir.Value | None = None) -> ir.Value:
    """The k of distinct positions [B, n] float32, by default 0 to n - 1, at which mask [B, n] is true, ascending."""
    positions = emit_iota(b, 1, n) if positions is None else positions
    values, _ = emit_top_k(b, b.op("Where", mask, positions, 3.0e38), k, n, largest=False)
    return values
