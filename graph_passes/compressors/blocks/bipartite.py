"""Bipartite soft matching (ToMe): even tokens merge into odd ones, the most similar pairs first.

One round on t tokens, of which the first `protect` are not merged: every even token finds its most similar odd one by
cosine, the r even tokens of highest similarity merge into theirs, and the result stays in spatial order, so that the
next round pairs neighbours again. A merged token has the position of the odd one. Rounds are repeated until K
tokens are left; between them a token's metric is the mean of its members'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....lazy import np
from .cosine import cosines, emit_unit
from .means import emit_mean_rows
from .select import LOWEST, emit_argmax, emit_iota, emit_rows, emit_slots, emit_top_k, top_k

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


def rounds(n: int, k: int, most: Callable[[int], int]) -> list[int]:
    """How many tokens each round removes from n until k are left: as many as `most` allows."""
    removed = []
    while n > k:
        removed.append(min(n - k, most(n)))
        n -= removed[-1]
    return removed


def similarities(metric: torch.Tensor, protect: int = 0, cost: torch.Tensor | None = None) -> torch.Tensor:
    """Cosines [B, even, odd] of metric [B, t, Dk] float32, minus the cost [B, t] of merging the even token away."""
    import torch

    similarity = cosines(metric[:, ::2], metric[:, 1::2])
    if cost is not None:
        similarity = similarity - cost[:, ::2, None]
    similarity[:, : (protect + 1) // 2] = -torch.inf
    similarity[:, :, : protect // 2] = -torch.inf
    return similarity


def most_similar(similarity: torch.Tensor, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The even tokens [B, r] that merge, and of each even token the odd one [B, even] that it goes to."""
    best = similarity.max(2)
    return top_k(best.values, r), best.indices


def slots_after(merged: torch.Tensor, partner: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The slots of t tokens after even tokens `merged` [B, r] go to their `partner` [B, even].

    Returns:
        The slot [B, t] of each token, and the tokens [B, t - r] that keep their own, ascending.
    """
    import torch

    stays = torch.ones(len(merged), t, dtype=torch.bool, device=merged.device).scatter(1, 2 * merged, False)
    own = stays.cumsum(1) - 1
    into = own.gather(1, 2 * partner.gather(1, merged) + 1)
    return own.scatter(1, 2 * merged, into), stays.nonzero()[:, 1].view(len(merged), -1)


def match(
    metric: torch.Tensor, r: int, protect: int = 0, cost: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One round, as `slots_after` returns it."""
    return slots_after(*most_similar(similarities(metric, protect, cost), r), metric.shape[1])


def weighted_mean(
    x: torch.Tensor, sizes: torch.Tensor, slots: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means [B, k, D] of x [B, t, D] by slot [B, t], weighted by sizes [B, t], and the sums of the sizes [B, k]."""
    sums = x.new_zeros(len(x), k, x.shape[2]).scatter_add(1, slots[..., None].expand_as(x), x * sizes[..., None])
    total = sizes.new_zeros(len(x), k).scatter_add(1, slots, sizes)
    return sums / total[..., None], total


@dataclass(frozen=True)
class Folding:
    """Tokens between two rounds.

    Attributes:
        metric: [B, t, Dk] float32, the mean of the members'.
        sizes: [B, t], their number.
        norms: [B, t], the mean norm of the members' metric.
        cost: [B, t], the cost of merging a token away, the mean over the members of its last merge; or None.
        kept: [B, t], the positions of the remaining tokens.
        slot: [B, N], the slot of each original token.
    """

    metric: torch.Tensor
    sizes: torch.Tensor
    norms: torch.Tensor
    cost: torch.Tensor | None
    kept: torch.Tensor
    slot: torch.Tensor

    @classmethod
    def begin(cls, metric: torch.Tensor, cost: torch.Tensor | None) -> Folding:
        """The state before the first round: every token is its own slot."""
        import torch

        batch, n, _ = metric.shape
        each = torch.arange(n, device=metric.device).repeat(batch, 1)
        return cls(metric, metric.new_ones(batch, n), metric.norm(dim=2), cost, each, each)

    def similarities(self) -> torch.Tensor:
        """[B, even, odd]."""
        return similarities(self.metric, cost=self.cost)

    def after(self, merged: torch.Tensor, partner: torch.Tensor) -> Folding:
        """The next state, after even tokens `merged` [B, r] go to their `partner` [B, even]."""
        import torch

        slots, stays = slots_after(merged, partner, self.kept.shape[1])
        left = stays.shape[1]
        metric, sizes = weighted_mean(self.metric, self.sizes, slots, left)
        norms, _ = weighted_mean(self.norms[..., None], self.sizes, slots, left)
        cost = None
        if self.cost is not None:
            cost = weighted_mean(self.cost[..., None], torch.ones_like(self.cost), slots, left)[0][..., 0]
        kept, slot = self.kept.gather(1, stays), slots.gather(1, self.slot)
        return Folding(metric, sizes, norms[..., 0], cost, kept, slot)


def fold(
    metric: torch.Tensor, removed: list[int], cost: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round after round.

    Args:
        metric: [B, N, Dk] float32.
        removed: how many tokens each round removes.
        cost: [B, N], the cost of merging a token away.

    Returns:
        The positions [B, K] of the slots, ascending, and the slot [B, N] of each token.
    """
    now = Folding.begin(metric, cost)
    for r in removed:
        now = now.after(*most_similar(now.similarities(), r))
    return now.kept, now.slot


def emit_fold(
    b: Builder, metric: ir.Value, n: int, removed: list[int], cost: ir.Value | None = None
) -> tuple[ir.Value, ir.Value]:
    """As `fold`: metric [B, n, Dk] and cost [B, n] float32; positions [B, K] and slots [B, n], both float32."""
    t, now = n, metric
    kept = slot = None
    for r in removed:
        slots, stays = emit_match(b, now, t, r, cost=cost)
        if kept is None or slot is None:
            kept, slot = stays, slots
        else:
            kept = b.op("GatherElements", kept, b.cast(stays, "int64"), axis=1)
            slot = b.op("GatherElements", slots, b.cast(slot, "int64"), axis=1)
        t -= r
        if t == n - sum(removed):
            break
        now, _ = emit_mean_rows(b, metric, slot, t)
        if cost is not None:
            cost = b.op("Squeeze", emit_mean_rows(b, b.op("Unsqueeze", cost, [2]), slots, t)[0], [2])
    assert kept is not None and slot is not None
    return kept, slot


def emit_match(
    b: Builder, metric: ir.Value, t: int, r: int, *, protect: int = 0, cost: ir.Value | None = None
) -> tuple[ir.Value, ir.Value]:
    """One round: the slot [B, t] of each token, and the tokens [B, t - r] that keep their own, both float32.

    Args:
        b: the builder.
        metric: [B, t, Dk] float32.
        t: tokens.
        r: how many merge.
        protect: leading tokens that are not merged.
        cost: [B, t] float32, the cost of merging a token away.
    """
    even, odd = (t + 1) // 2, t // 2
    unit = emit_unit(b, metric)
    sources, targets = (b.op("Slice", unit, [first], [t], [1], [2]) for first in (0, 1))
    similarity = b.op("MatMul", sources, b.op("Transpose", targets, perm=[0, 2, 1]))
    if cost is not None:
        similarity = b.op("Sub", similarity, b.op("Unsqueeze", b.op("Slice", cost, [0], [t], [1], [2]), [2]))
    if protect:
        alone = (np.arange(even)[:, None] < (protect + 1) // 2) | (np.arange(odd) < protect // 2)
        similarity = b.op("Where", b.const(alone[None]), LOWEST, similarity)
    partner = b.op("Squeeze", emit_argmax(b, similarity, 2, (1, 1, odd)), [2])
    # From even tokens followed by odd ones back to spatial order.
    order = b.const(np.argsort(np.r_[0:t:2, 1:t:2]))
    if r == even:
        slots = b.op("Concat", partner, emit_rows(b, metric, np.arange(odd, dtype=np.float32)), axis=1)
        return b.op("Gather", slots, order, axis=1), emit_rows(b, metric, np.arange(1, t, 2, dtype=np.float32))

    best = b.op("ReduceMax", similarity, [2], keepdims=0)
    _, merged = emit_top_k(b, best, r, even)
    gone = b.op("GreaterOrEqual", emit_slots(b, b.cast(merged, "float32"), even, emit_iota(b, 1, r)), 0.0)
    others = emit_rows(b, metric, np.zeros(odd, dtype=bool))
    stays = b.op("Not", b.op("Gather", b.op("Concat", gone, others, axis=1), order, axis=1))
    earlier = b.op("And", b.op("Unsqueeze", stays, [1]), b.const(np.tri(t, k=-1, dtype=bool)[None]))
    own = b.op("ReduceSum", b.cast(earlier, "float32"), [2], keepdims=0)
    own_even, own_odd = (b.op("Slice", own, [first], [t], [1], [2]) for first in (0, 1))
    into = b.op("GatherElements", own_odd, b.cast(partner, "int64"), axis=1)
    slots = b.op("Concat", b.op("Where", gone, into, own_even), own_odd, axis=1)
    left = b.op("Where", stays, own, -1.0)
    at_slot = b.op("Equal", b.op("Unsqueeze", left, [1]), emit_iota(b, 1, t - r, 1))
    kept = b.op("ReduceMax", b.op("Where", at_slot, emit_iota(b, 1, 1, t), -1.0), [2], keepdims=0)
    return b.op("Gather", slots, order, axis=1), kept
