"""Checks rounds of bipartite matching by their outcome, which does not show what merged when."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ..blocks.bipartite import Folding
from ..blocks.replay import explain, top_k_regret
from ..blocks.select import slots_of

if TYPE_CHECKING:
    import torch

_ROUNDING = 1e-6  # rounding of a cosine that may decide between two partners

# What a round does: the even tokens [1, r] that merge, and the odd one [1, even] that each even token goes to.
Choice: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"
# How many rounds are done, the tokens before the last of them, and what it did.
Node: TypeAlias = "tuple[int, Folding, Choice | None]"


def refold_regret(
    metric: torch.Tensor,
    removed: list[int],
    kept: torch.Tensor,
    slot: torch.Tensor,
    cost: torch.Tensor | None = None,
) -> torch.Tensor:
    """Regret [B] of a folding that results in positions `kept` [B, K] and slots [B, N].

    Every token goes to the most similar of those that end in its own slot. If that explains the result badly, one of
    them goes to another that is as similar up to rounding. Arguments as in `bipartite.fold`.
    """
    import torch

    def one(i: slice) -> float:
        end = kept[i].gather(1, slot[i].clamp(min=0))
        for_good = slots_of(kept[i], slot.shape[1]) >= 0

        def ways(node: Node) -> list[tuple[float, Node]] | None:
            done, now, choice = node
            now = now if choice is None else now.after(*choice)
            if done == len(removed):
                return None
            ends, stays = end.gather(1, now.kept), for_good.gather(1, now.kept)
            return [(lack, (done + 1, now, way)) for lack, way in _ways(now, removed[done], ends, stays[:, ::2])]

        start: Node = (0, Folding.begin(metric[i], None if cost is None else cost[i]), None)
        found = explain(start, ways)
        regret, last = found
        if last is None:
            return regret
        done = last[1] if last[2] is None else last[1].after(*last[2])
        return regret if done.kept.equal(kept[i]) and done.slot.equal(slot[i]) else float("inf")

    return torch.tensor([one(slice(i, i + 1)) for i in range(len(kept))], dtype=torch.float64)


def _ways(now: Folding, r: int, ends: torch.Tensor, stays: torch.Tensor) -> list[tuple[float, Choice]]:
    """The choices of a round after which each token of one batch element can end where it must, the best first.

    Args:
        now: the state before the round.
        r: how many tokens merge.
        ends: [1, t], positions that the tokens end at.
        stays: [1, even], whether a token keeps its own position.
    """
    import torch

    similarity = now.similarities()
    together = similarity.masked_fill(ends[:, ::2, None] != ends[:, None, 1::2], -torch.inf)
    found, best = together.max(2), similarity.max(2)
    may = ~stays & (found.values > -torch.inf)
    free = int(may.sum())
    if free < r:
        return []
    order = best.values.masked_fill(~may, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :free]
    # The sum of opposite tokens is short, and its direction is rounding error.
    magnified = torch.where(now.norms > 0, now.norms / now.metric.norm(dim=2), 1.0)
    odd = magnified[:, 1::2]
    scale = magnified[:, ::2] + torch.maximum(odd.gather(1, found.indices), odd.gather(1, best.indices))
    if now.cost is not None:
        scale = scale + now.cost[:, ::2].abs()
    ways = []
    # If one more token may merge than must, the one left out decides which are even in the next round.
    for left in range(r, -1, -1) if free == r + 1 else [free]:
        merged = order[:, torch.arange(free) != left][:, :r]
        gone = torch.zeros_like(stays).scatter(1, merged, True)
        lack = torch.where(gone, (best.values - found.values) / scale, 0.0).amax()
        worst = torch.maximum(lack.double().cpu(), top_k_regret(best.values, gone, scale / 2)[0])
        ways.append((float(worst), (merged, found.indices)))
    return ways + _other_partners(together, found.indices, scale, ways[0])


def _other_partners(
    together: torch.Tensor, partner: torch.Tensor, scale: torch.Tensor, first: tuple[float, Choice]
) -> list[tuple[float, Choice]]:
    """The first choice with another partner for one token: of two equally similar ones, it decides later rounds.

    Args:
        together: [1, even, odd], similarities of those that end in one slot.
        partner: [1, even], the most similar.
        scale: [1, even], what the rounding of a similarity is relative to.
        first: the regret of the first choice, and the choice.
    """
    worst, (merged, _) = first
    best = together.gather(2, partner[..., None])[..., 0]
    other = together.scatter(2, partner[..., None], -float("inf")).max(2)
    lack = ((best - other.values) / scale).gather(1, merged)[0]
    tied = merged[0, lack <= _ROUNDING].tolist()
    swapped = [partner.index_put((partner.new_zeros(1), partner.new_tensor([a])), other.indices[:, a]) for a in tied]
    return [(max(worst, _ROUNDING), (merged, way)) for way in swapped]
