"""Judging two_scale by its outcome, which shows neither all points that were picked nor what joined when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from .a_tome_replay import tied
from .bipartite import weighted_mean
from .dpc_knn_replay import pair_scale
from .replay import explain, top_k_regret

if TYPE_CHECKING:
    import torch

# How many points are picked, how many groups each round removes, and what a round does (`two_scale.joined`).
Joins: TypeAlias = (
    "tuple[int, list[int], Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]]"
)

_TIED = 1e-5  # a regret of about a hundred roundings
_WAYS = 50


@dataclass(frozen=True)
class _Node:
    """Before a decision: the picks so far, or, once all are picked, the group [1, N] of each token and rounds done."""

    picks: tuple[int, ...]
    group: torch.Tensor | None = None
    done: int = 0


def groups_regret(tokens: torch.Tensor, plan: Joins, kept: torch.Tensor, assignment: torch.Tensor) -> torch.Tensor:
    """Regret [B] of picks and joins that lead to slots `assignment` [B, N] at positions kept [B, K].

    The first pick in a slot is its position. Groups of one slot only join each other, so every way to do that leads
    there.
    """
    import torch

    each = [_Replayed(x[None].double(), plan, at, end) for x, at, end in zip(tokens, kept, assignment)]
    return torch.tensor([one.regret() for one in each], dtype=torch.float64)


class _Replayed:
    """One batch element: tokens [1, N, D] float64, positions [K] and the slot [N] that each token ends in."""

    def __init__(self, x: torch.Tensor, plan: Joins, kept: torch.Tensor, end: torch.Tensor) -> None:
        import torch

        (self.points, self.removed, self.joined), self.x, self.end = plan, x, end
        self.kept = kept.tolist()
        self.sure = bool((end >= 0).all()) and end[kept].equal(torch.arange(len(kept), device=end.device))
        self.lengths = torch.stack([x.square().mean(2), (x - x.mean(1, keepdim=True)).square().mean(2)], 2)
        self.square, self.scale = self._distances(x, self.lengths)

    def regret(self) -> float:
        """Of the way that explains the slots best; infinite where none does."""
        return explain(_Node((0,)), self._ways)[0] if self.sure and self.kept[0] == 0 else float("inf")

    def _ways(self, node: _Node) -> list[tuple[float, _Node]] | None:
        if node.group is None:
            return self._picks(node.picks) if len(node.picks) < self.points else self._cells(node.picks)
        return None if node.done == len(self.removed) else self._rounds(node, node.group)

    def _picks(self, picks: tuple[int, ...]) -> list[tuple[float, _Node]]:
        """The next pick: the farthest, or one as far but for rounding."""
        import torch

        at = list(picks)
        near, nearest = self.square[:, at].min(1)
        rounded = self.scale[:, at].gather(1, nearest[:, None])[:, 0]
        near[at] = -torch.inf
        best = int(near.argmax())
        lack = torch.where(near < near[best], (near[best] - near) / (rounded[best] + rounded), 0.0)
        found = (lack <= _TIED).nonzero()[:, 0]
        order = found[near[found].argsort(descending=True, stable=True)].tolist()
        begun = {int(self.end[pick]) for pick in picks}
        first = {pick for slot, pick in enumerate(self.kept) if slot not in begun}
        spare = self.points - len(picks) > len(first)
        may = [pick for pick in order if pick in first or (spare and int(self.end[pick]) in begun)]
        return [(float(lack[pick]), _Node((*picks, pick))) for pick in may]

    def _cells(self, picks: tuple[int, ...]) -> list[tuple[float, _Node]]:
        """Each token in the group of the nearest pick that ends where it does."""
        import torch

        at = torch.tensor(picks, device=self.end.device)
        square, scale = self.square[:, at].clone(), self.scale[:, at]
        square[at, torch.arange(len(at), device=at.device)] = -1.0
        best = square.min(1)
        found = square.masked_fill(self.end[:, None] != self.end[at], torch.inf).min(1)
        both = scale.gather(1, best.indices[:, None])[:, 0] + scale.gather(1, found.indices[:, None])[:, 0]
        lack = torch.where(found.values > best.values, (found.values - best.values) / both, 0.0)
        return [(float(lack.max()), _Node(picks, found.indices[None]))]

    def _rounds(self, node: _Node, group: torch.Tensor) -> list[tuple[float, _Node]]:
        """Which groups join an earlier one that ends where they do."""
        import torch

        r, t = self.removed[node.done], self.points - sum(self.removed[: node.done])
        ones = torch.ones_like(self.x[..., 0])
        centres, _ = weighted_mean(self.x, ones, group, t)
        # What opposite tokens leave of each other is short, and as wrong as they are long.
        square, scale = self._distances(centres, weighted_mean(self.lengths, ones, group, t)[0])
        ends = self.end.new_zeros(t).scatter(0, group[0], self.end)
        later = torch.ones_like(square, dtype=torch.bool).triu()
        best = square.masked_fill(later, torch.inf).min(1)
        found = square.masked_fill(later | (ends[:, None] != ends), torch.inf).min(1)
        rounded = scale.gather(1, best.indices[:, None])[:, 0]
        both = rounded + scale.gather(1, found.indices[:, None])[:, 0]
        lack = torch.where(found.values > best.values, (found.values - best.values) / both, 0.0)
        free = int(found.values.isfinite().sum())
        order = found.values.argsort(stable=True)[:free].tolist()
        ways = []
        for chosen in islice(tied(order, r, found.values.tolist(), rounded.tolist()), _WAYS):
            joins = torch.tensor([chosen], device=group.device)
            gone = torch.zeros_like(later[:1]).scatter(1, joins, True)
            worst = top_k_regret(-best.values[None, 1:], gone[:, 1:], rounded[None, 1:])
            after, _ = self.joined(group, joins, found.indices[None])
            ways.append((max(float(lack[chosen].max()), float(worst[0])), _Node(node.picks, after, node.done + 1)))
        return ways

    @staticmethod
    def _distances(x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """|x - y|^2 [n, n], a channel, of x [1, n, D], and what its rounding is relative to; lengths [1, n, 2]."""
        import torch

        square = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square() / x.shape[2]
        return square[0], pair_scale(square, *lengths.unbind(2))[0]
