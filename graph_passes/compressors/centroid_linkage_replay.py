"""Judging rounds of centroid linkage by their outcome, which does not show what joined when."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from .a_tome_replay import tied
from .bipartite import weighted_mean
from .dpc_knn_replay import pair_scale
from .replay import explain, top_k_regret
from .select import gather

if TYPE_CHECKING:
    import torch

# How many rounds are done, and the group of each token [1, N].
Node: TypeAlias = "tuple[int, torch.Tensor]"
_WAYS = 50


def linkage_regret(
    tokens: torch.Tensor,
    removed: list[int],
    assignment: torch.Tensor,
    joined: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Regret [B] of rounds that lead to slots `assignment` [B, N].

    Groups that end in one slot only join each other, so every way to do that leads there.

    Args:
        tokens: [B, N, D].
        removed: how many groups each round removes.
        assignment: the slots.
        joined: what a round does, as `centroid_linkage.joined`.
    """
    import torch

    def one(i: slice) -> float:
        x, end = tokens[i].double(), assignment[i]
        if int(end.min()) < 0:
            return float("inf")

        def ways(node: Node) -> list[tuple[float, Node]] | None:
            done, group = node
            if done == len(removed):
                return None
            found = _ways(x, group, removed[done], end)
            return [(lack, (done + 1, joined(group, joins, into))) for lack, joins, into in found]

        start: Node = (0, torch.arange(x.shape[1], device=x.device)[None])
        regret, _ = explain(start, ways)
        return regret

    return torch.tensor([one(slice(i, i + 1)) for i in range(len(tokens))], dtype=torch.float64)


def _ways(
    x: torch.Tensor, group: torch.Tensor, r: int, end: torch.Tensor
) -> list[tuple[float, torch.Tensor, torch.Tensor]]:
    """Which r groups may join, and which group [1, t] each would join, the best first, each with its regret.

    Args:
        x: [1, N, D] float64.
        group: [1, N], before the round.
        r: how many groups join.
        end: [1, N], the slot that each token ends in.
    """
    import torch

    t = int(group.max()) + 1
    ones = torch.ones_like(x[..., 0])
    centres, _ = weighted_mean(x, ones, group, t)
    # What is left of opposite tokens is short, and as wrong as they are long.
    lengths = torch.stack([x.square().mean(2), (x - x.mean(1, keepdim=True)).square().mean(2)], 2)
    own, around = weighted_mean(lengths, ones, group, t)[0].unbind(2)
    square = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist").square() / x.shape[2]
    scale = pair_scale(square, own, around)

    ends = end.new_zeros(1, t).scatter(1, group, end)
    later = torch.ones_like(square[0], dtype=torch.bool).triu()
    nearest = square.masked_fill(later, torch.inf).min(2)
    allowed = square.masked_fill(later | (ends[:, :, None] != ends[:, None]), torch.inf).min(2)
    free = int(allowed.values.isfinite().sum())
    rounded = scale.gather(2, nearest.indices[..., None])[..., 0]
    both = rounded + scale.gather(2, allowed.indices[..., None])[..., 0]
    lack = torch.where(allowed.values > nearest.values, (allowed.values - nearest.values) / both, 0.0)
    order = allowed.values[0].argsort(stable=True)[:free].tolist()
    scores = -nearest.values[:, 1:]
    found = []
    for chosen in islice(tied(order, r, allowed.values[0].tolist(), rounded[0].tolist()), _WAYS):
        joins = torch.tensor([chosen], device=group.device)
        gone = torch.zeros_like(later[:1]).scatter(1, joins, True)
        worst = max(float(lack[0, chosen].max()), float(top_k_regret(scores, gone[:, 1:], rounded[:, 1:])[0]))
        found.append((worst, joins, allowed.indices))
    return found


def farthest_regret(tokens: torch.Tensor, kept: torch.Tensor, assignment: torch.Tensor) -> torch.Tensor:
    """Regret [B] of the positions kept [B, K] of slots [B, N]: each of its tokens the farthest from the mean of all."""
    import torch

    x = tokens.double()
    centred = x - x.mean(1, keepdim=True)
    far = centred.square().mean(2)
    scale = pair_scale(far[:, None], x.square().mean(2), far).diagonal(dim1=1, dim2=2) / 2
    mine = assignment[:, None] == torch.arange(kept.shape[1], device=kept.device)[:, None]
    best = torch.where(mine, far[:, None], -1.0).max(2)
    paid, rounded = far.gather(1, kept), scale.gather(1, kept) + scale.gather(1, best.indices)
    lack = torch.where(best.values > paid, (best.values - paid) / rounded, 0.0)
    own = gather(assignment[..., None], kept)[..., 0] == torch.arange(kept.shape[1], device=kept.device)
    return torch.where(own, lack, torch.inf).amax(1).cpu()
