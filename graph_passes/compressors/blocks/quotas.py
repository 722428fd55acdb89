"""Shares that depend on the tokens: K slots divided among parts of a sequence, for the best tokens of each.

For scores s [N], parts of fixed lengths, shares p of the parts that sum to 1, K slots:

    quota_g = floor(K p_g); the remaining slots go one each to the parts of the largest share
    kept    = the quota_g largest s of each part; if a part has fewer, the largest s of all others instead

The lowest index wins among equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....lazy import np
from . import select

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder

# A quota this close below a whole number counts as that number: shares of equal parts must not depend on rounding.
WHOLE = 1e-5


def quotas(shares: torch.Tensor, k: int, whole: float = WHOLE) -> torch.Tensor:
    """How many [B, G] of k slots each part gets, for shares [B, G]."""
    quota = (k * shares + whole).floor()
    return quota + (ranks(shares) < k - quota.sum(1, keepdim=True))


def fill_quotas(scores: torch.Tensor, quota: torch.Tensor, lengths: Sequence[int], k: int) -> torch.Tensor:
    """Kept positions [B, k], ascending, for scores [B, N] and parts of `lengths` with quota [B, G]."""
    import torch

    parts = zip(scores.split(list(lengths), 1), quota.unbind(1))
    inside = torch.cat([ranks(part) < share[:, None] for part, share in parts], 1)
    order = select.top_k(scores, scores.shape[1])
    inside_first = inside.gather(1, order).int().argsort(dim=1, descending=True, stable=True)
    return order.gather(1, inside_first)[:, :k].sort(dim=1).values


def emit_parts(b: Builder, scores: ir.Value, lengths: Sequence[int], padding: float) -> ir.Value:
    """Scores [B, N] as a table [B, G, longest], each part a row padded at its end."""
    n, longest = sum(lengths), max(lengths)
    index = np.full(len(lengths) * longest, n, np.int64)
    index[_places(lengths)] = np.arange(n)
    padded = b.op("Concat", scores, select.emit_rows(b, scores, np.full(1, padding, np.float32)), axis=1)
    return b.op("Reshape", b.op("Gather", padded, index, axis=1), [-1, len(lengths), longest])


def emit_fill_quotas(
    b: Builder, scores: ir.Value, table: ir.Value, shares: ir.Value, lengths: Sequence[int], k: int
) -> ir.Value:
    """As `quotas` and `fill_quotas`, [B, k] float32; `table` has `scores` by part, padded by lower values."""
    n, parts, longest = sum(lengths), len(lengths), max(lengths)
    quota = b.op("Floor", b.op("Add", b.op("Mul", shares, float(k)), WHOLE))
    left = b.op("Sub", float(k), b.op("ReduceSum", quota, [1], keepdims=1))
    more = b.op("Less", select.emit_rank(b, shares, parts), left)
    quota = b.op("Unsqueeze", b.op("Add", quota, b.cast(more, "float32")), [2])
    outside = b.cast(b.op("GreaterOrEqual", select.emit_rank(b, table, longest), quota), "float32")
    outside = b.op("Gather", b.op("Reshape", outside, [-1, parts * longest]), _places(lengths), axis=1)

    _, order = select.emit_top_k(b, scores, n, n)
    penalty = b.op("Mul", b.op("GatherElements", outside, order, axis=1), float(n))
    _, first = select.emit_top_k(b, b.op("Add", penalty, select.emit_iota(b, 1, n)), k, n, largest=False)
    kept, _ = select.emit_sort(b, b.op("GatherElements", order, first, axis=1), k)
    return kept


def _places(lengths: Sequence[int]) -> np.ndarray:
    """The index of each token in the flattened table."""
    longest = max(lengths)
    return np.concatenate([row * longest + np.arange(length) for row, length in enumerate(lengths)])


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """The rank [B, n] of each of scores [B, n], 0 for the largest, the lowest index first among equals."""
    return select.top_k(scores, scores.shape[1]).argsort(dim=1)
