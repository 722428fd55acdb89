"""Checks farthest points and the groups around them by their outcome.

It shows neither the order of the picks nor, in two_scale, all picked points and what joined when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product
from typing import TYPE_CHECKING, TypeAlias

from ..blocks.bipartite import weighted_mean
from ..blocks.replay import TIED, explain, top_k_regret
from ..blocks.squares import ROUNDING, square_distances
from .a_tome import tied
from .dpc_knn import pair_scale

if TYPE_CHECKING:
    import torch

# How many points are picked, how many groups each round removes, and what a round does (`two_scale.joined`), if any.
Joins: TypeAlias = (
    "tuple[int, list[int], Callable[[torch.Tensor, torch.Tensor, torch.Tensor],"
    " tuple[torch.Tensor, torch.Tensor]] | None]"
)

_CHOICES = 50  # of what joins in a round
_MOVES = 8  # into other equal groups, of the first of them


@dataclass(frozen=True)
class _Node:
    """State before a decision: the picks so far, or after all picks the group [1, N] of each token and rounds done.

    Attributes:
        picks: the last one is not yet in `near`.
        near: how far each token is from the nearest pick; that pick; and how far as a body sees it. All [N].
    """

    picks: tuple[int, ...]
    near: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    group: torch.Tensor | None = None
    done: int = 0


def groups_regret(
    tokens: torch.Tensor, plan: Joins, kept: torch.Tensor, assignment: torch.Tensor, first: Sequence[int] | None = None
) -> torch.Tensor:
    """Regret [B] of picks and joins that lead to slots `assignment` [B, N] at positions kept [B, K].

    The first pick in a slot is its position. Groups of one slot only join each other, so every sequence of such joins
    leads there. `first` are the positions of the first picks, 0 by default.
    """
    import torch

    first = first or [0] * len(tokens)
    each = [_Replayed(x[None].double(), plan, *outcome) for x, *outcome in zip(tokens, kept, assignment, first)]
    return torch.tensor([one.regret() for one in each], dtype=torch.float64)


class _Replayed:
    """One batch element: tokens [1, N, D] float64, positions [K], the slot [N] of each token, and the first pick."""

    def __init__(self, x: torch.Tensor, plan: Joins, kept: torch.Tensor, end: torch.Tensor, first: int) -> None:
        import torch

        (self.points, self.removed, self.joined), self.x, self.end = plan, x, end
        self.kept, self.first, self.moves = kept.tolist(), first, 1
        self.sure = bool((end >= 0).all()) and end[kept].equal(torch.arange(len(kept), device=end.device))
        self.lengths = torch.stack([x.square().mean(2), (x - x.mean(1, keepdim=True)).square().mean(2)], 2)
        self.square, self.scale = self._distances(x, self.lengths)
        self.seen = self.square

    def regret(self) -> float:
        """The regret of the sequence that explains the slots best; infinite if none does."""
        if not self.sure or self.first not in self.kept:
            return float("inf")
        # A body may round a small distance to 0. Next to large tokens that is far for others: tokens as far as one of
        # them may be picked before it at every step, which a search with a limited number of tries does not find by
        # itself.
        off = (self.x - self.x[:, self.lengths[0, :, 1].argmin(), None]).square().mean(2)[0]
        rounded = self.square.where(self.square > ROUNDING * (off[:, None] + off), 0.0)
        seen = [self.square] if rounded.equal(self.square) else [rounded, self.square]
        # With many ties, moves of single tokens would hide other picks.
        found = float("inf")
        for (self.moves, fewest), self.seen in product([(1, False), (_MOVES, True)], seen):
            found = min(found, explain(_Node((self.first,)), self._ways, fewest=fewest)[0])
            if found <= TIED:
                break
        return found

    def _ways(self, node: _Node) -> list[tuple[float, _Node]] | None:
        if node.group is None:
            return self._picks(node) if len(node.picks) < self.points else self._cells(node.picks)
        return None if node.done == len(self.removed) else self._rounds(node, node.group)

    def _picks(self, node: _Node) -> list[tuple[float, _Node]]:
        """The next pick: the farthest as far as the result shows, or one as far up to rounding."""
        import torch

        picks, last = node.picks, node.picks[-1]
        if node.near is None:
            near, nearest, seen = self.square[last].clone(), torch.full_like(self.end, last), self.seen[last]
        else:
            near, nearest, seen = node.near
            closer = self.square[last] < near
            near, nearest = self.square[last].where(closer, near), nearest.masked_fill(closer, last)
            seen = torch.minimum(seen, self.seen[last])
        near[last] = -torch.inf
        rounded = self.scale.gather(0, nearest[None])[0]
        lack = _nearer(near, rounded)
        found = (lack <= TIED).nonzero()[:, 0]
        order = found[seen[found].argsort(descending=True, stable=True)].tolist()
        begun = {int(self.end[pick]) for pick in picks}
        first = {pick for slot, pick in enumerate(self.kept) if slot not in begun}
        spare = self.points - len(picks) > len(first)
        may = [pick for pick in order if pick in first or (spare and int(self.end[pick]) in begun)]
        return [(float(lack[pick]), _Node((*picks, pick), (near, nearest, seen))) for pick in may]

    def _cells(self, picks: tuple[int, ...]) -> list[tuple[float, _Node]]:
        """Each token in the group of the nearest pick that ends in its slot, or of one as near up to rounding."""
        import torch

        at = torch.tensor(picks, device=self.end.device)
        square = self.square[:, at].clone()
        square[at, torch.arange(len(at), device=at.device)] = -torch.inf
        near = _Nearest(square, self.scale[:, at], self.end[:, None] == self.end[at])
        groups = [near.moved(moved) for moved in islice(_moves(near.others), self.moves)]
        return [(float(near.lack(group).max()), _Node(picks, group=group[None])) for group in groups]

    def _rounds(self, node: _Node, group: torch.Tensor) -> list[tuple[float, _Node]]:
        """Which groups join an earlier one that ends in their slot."""
        import torch

        assert self.joined is not None
        r, t = self.removed[node.done], self.points - sum(self.removed[: node.done])
        ones = torch.ones_like(self.x[..., 0])
        centres, _ = weighted_mean(self.x, ones, group, t)
        # The sum of opposite tokens is short, with an error relative to their length.
        square, scale = self._distances(centres, weighted_mean(self.lengths, ones, group, t)[0])
        ends = self.end.new_zeros(t).scatter(0, group[0], self.end)
        later = torch.ones_like(square, dtype=torch.bool).triu()
        near = _Nearest(square.masked_fill(later, torch.inf), scale, ends[:, None] == ends)
        values = near.found.values
        order = values.argsort(stable=True)[: int(values.isfinite().sum())].tolist()
        ways: dict[bytes, tuple[float, _Node]] = {}
        for place, chosen in enumerate(islice(tied(order, r, values.tolist(), near.rounded.tolist()), _CHOICES)):
            joins = torch.tensor([chosen], device=group.device)
            gone = torch.zeros_like(later[:1]).scatter(1, joins, True)
            worst = float(top_k_regret(-near.best.values[None, 1:], gone[:, 1:], near.rounded[None, 1:])[0])
            others = {group: there for group, there in near.others.items() if group in chosen}
            for moved in islice(_moves(others), max(1, self.moves - place)):
                into = near.moved(moved)
                after, _ = self.joined(group, joins, into[None])
                way = (
                    max(float(near.lack(into)[chosen].max()), worst),
                    _Node(node.picks, group=after, done=node.done + 1),
                )
                ways.setdefault(after.cpu().numpy().tobytes(), way)
        return list(ways.values())

    @staticmethod
    def _distances(x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """|x - y|^2 [n, n] per channel of x [1, n, D], and the scale of its rounding; lengths [1, n, 2]."""
        square = square_distances(x, x) / x.shape[2]
        return square[0], pair_scale(square, *lengths.unbind(2))[0]


class _Nearest:
    """For rows, the nearest of the possible columns.

    Attributes:
        best: of all columns, values and indices [rows].
        found: of the possible ones.
        rounded: [rows], the scale of the rounding of the best distance.
        others: row -> possible columns besides `found` that are as near up to rounding.
    """

    def __init__(self, square: torch.Tensor, scale: torch.Tensor, may: torch.Tensor) -> None:
        """Squared distances, the scale of their rounding, and which columns are possible, all [rows, columns]."""
        import torch

        self.square, self.scale = square, scale
        allowed = square.masked_fill(~may, torch.inf)
        self.best, self.found = square.min(1), allowed.min(1)
        self.rounded = scale.gather(1, self.best.indices[:, None])[:, 0]
        found = self.found.indices[:, None]
        beyond = (allowed - self.found.values[:, None]) / (scale + scale.gather(1, found))
        rows, columns = ((beyond <= TIED) & allowed.isfinite()).scatter(1, found, False).nonzero(as_tuple=True)
        self.others: dict[int, list[int]] = {}
        for row, column in zip(rows.tolist(), columns.tolist()):
            self.others.setdefault(row, []).append(column)

    def moved(self, moved: dict[int, int]) -> torch.Tensor:
        """`found` [rows] with some rows replaced."""
        chosen = self.found.indices.clone()
        for row, column in moved.items():
            chosen[row] = column
        return chosen

    def lack(self, chosen: torch.Tensor) -> torch.Tensor:
        """The most by which the chosen columns [rows] are farther than another, relative to both roundings."""
        import torch

        paid, scale = (each.gather(1, chosen[:, None]) for each in (self.square, self.scale))
        return torch.where(paid > self.square, (paid - self.square) / (scale + self.scale), 0.0).amax(1)


def _nearer(near: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The most by which each [N] is nearer than another, relative to both roundings."""
    import torch

    order = near.argsort(descending=True, stable=True)
    least = rounded[order].cummin(0).values
    # A token that is nearer than another and rounded no less is never the one farthest ahead.
    front = order[torch.cat([least.new_ones(1), least[:-1] - least[1:]]) > 0]
    ahead = near[front] - near[:, None]
    return torch.where(ahead > 0, ahead / (rounded[front] + rounded[:, None]), 0.0).amax(1)


def _moves(others: dict[int, list[int]]) -> Iterator[dict[int, int]]:
    """Sets of rows with another column: none, then each alone, then pairs, and so on."""
    for count in range(len(others) + 1):
        for rows in combinations(others, count):
            for columns in product(*(others[row] for row in rows)):
                yield dict(zip(rows, columns))
