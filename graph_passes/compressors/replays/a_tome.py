"""Rounds that merge neighbours: one round, and a check of many by their outcome, which does not show each round."""

from __future__ import annotations

from itertools import combinations, islice
from typing import TYPE_CHECKING

from ..blocks.bipartite import Folding
from ..blocks.replay import explain, top_k_regret

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_TIED = 1e-5  # of a cosine: about a hundred roundings
_WAYS = 200


def neighbour_cosines(metric: torch.Tensor) -> torch.Tensor:
    """Cosines [B, floor(t / 2)] of each token at an even position and the next one, of metric [B, t, Dk] float32."""
    from torch.nn.functional import normalize

    unit = normalize(metric, dim=2)
    second = unit[:, 1::2]
    return (unit[:, : 2 * second.shape[1] : 2] * second).sum(2)


def after(now: Folding, merged: torch.Tensor) -> Folding:
    """The tokens after each of the pairs `merged` [B, r] has become one."""
    import torch

    t = now.kept.shape[1]
    partner = torch.arange((t + 1) // 2, device=merged.device).clamp(max=t // 2 - 1)
    return now.after(merged, partner.repeat(len(merged), 1))


def rounds_regret(metric: torch.Tensor, removed: list[int], kept: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
    """Regret [B] of rounds that lead to slots [B, N] at positions kept [B, K]."""
    import torch

    def one(i: slice) -> float:
        end = slot[i]

        def ways(node: tuple[int, Folding]) -> list[tuple[float, tuple[int, Folding]]] | None:
            done, now = node
            if done == len(removed):
                return None
            choices = _choices(now, removed[done], end.gather(1, now.kept))
            return [(lack, (done + 1, after(now, merged))) for lack, merged in choices]

        found = explain((0, Folding.begin(metric[i], None)), ways)
        regret, last = found
        if last is None:
            return regret
        return regret if last[1].kept.equal(kept[i]) and last[1].slot.equal(end) else float("inf")

    return torch.tensor([one(slice(i, i + 1)) for i in range(len(kept))], dtype=torch.float64)


def _choices(now: Folding, r: int, ends: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
    """The r pairs [1, r] of one batch element that may merge in a round, the best choice first, each with its regret.

    Args:
        now: the state before the round.
        r: how many pairs merge.
        ends: [1, t], the slot that each token ends in.
    """
    import torch

    cosine = neighbour_cosines(now.metric)
    pairs = cosine.shape[1]
    may = ends[:, : 2 * pairs : 2] == ends[:, 1::2]
    free = int(may.sum())
    if free < r:
        return []
    order = cosine.masked_fill(~may, -torch.inf)[0].argsort(descending=True, stable=True)[:free].tolist()
    # The sum of opposite tokens is short, and its direction is rounding error.
    magnified = torch.where(now.norms > 0, now.norms / now.metric.norm(dim=2), 1.0)
    scale = (magnified[:, : 2 * pairs : 2] + magnified[:, 1::2]) / 2
    choices = []
    for chosen in islice(tied(order, r, cosine[0].tolist(), scale[0].tolist()), _WAYS):
        merged = torch.tensor([chosen], device=cosine.device)
        gone = torch.zeros_like(may).scatter(1, merged, True)
        choices.append((float(top_k_regret(cosine, gone, scale)[0]), merged))
    return choices


def tied(order: list[int], r: int, cosine: list[float], scale: list[float]) -> Iterator[list[int]]:
    """The first r of `order`, and then variants that differ in pairs that are as good up to rounding.

    Args:
        order: the best first.
        r: how many.
        cosine: of each pair, or another score it is ranked by.
        scale: of each pair, what the rounding error of that is relative to.
    """
    last = order[r - 1]

    def close(pair: int) -> bool:
        return abs(cosine[pair] - cosine[last]) <= _TIED * (scale[pair] + scale[last])

    out_of, into = [pair for pair in order[:r] if close(pair)], [pair for pair in order[r:] if close(pair)]
    for swapped in range(min(len(out_of), len(into)) + 1):
        for gone in combinations(reversed(out_of), swapped):
            for come in combinations(into, swapped):
                yield [pair for pair in order[:r] if pair not in gone] + list(come)
