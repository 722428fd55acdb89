"""centroid_linkage: the groups whose means are nearest become one, again and again, until K are left.

Source: tokexport. Agglomerative clustering with centroid linkage, in rounds of fixed counts instead of one merge at a
time. Every token of X [N, D] begins as a group of its own. One round on t groups with means M [t, D]:

    each group but the first finds its nearest earlier one: argmin_(b < a) |M_a - M_b|^2, the lowest among equals
    r = min(t - K, max(1, floor(ratio t))) groups of the least such distance join theirs, and with it what that joins

Groups stand in the order of their first tokens. At the end each is a slot: the plain mean of its tokens, its size their
number, its position that of its token farthest from the mean of all tokens (the lowest among equals).

Distances between means, unlike Ward's, do not grow with size: a large even ground takes in what is like it, and a few
tokens that are like nothing else keep a slot. Law: any K from 1 to N; K = N is the identity.

The ONNX body has |x - y|^2 = |x|^2 + |y|^2 - 2 x y, of tokens less their mean: what is rounded is relative to |x|^2,
and differences below that count as none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RequestError
from . import select
from .base import Case, Compressed, compressor
from .bipartite import rounds, weighted_mean
from .centroid_linkage_replay import farthest_regret, linkage_regret
from .means import emit_mean_rows, emit_means, means
from .replay import Replay
from .squares import emit_square_distances

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..builder import Builder


@compressor(
    "centroid_linkage",
    family="similarity",
    modalities=("image", "video", "audio"),
    merges=True,
    source="tokexport",
    summary="groups whose means are nearest become one, in repeated rounds",
)
@dataclass(frozen=True)
class CentroidLinkage:
    """Parameters of centroid_linkage.

    Attributes:
        ratio: share of groups that a round removes at most.
    """

    ratio: float = 0.1

    def __post_init__(self) -> None:
        if not 0.05 <= self.ratio <= 0.5:
            raise RequestError(
                f"ratio {self.ratio} is outside 0.05..0.5",
                where="method 'centroid_linkage'",
                fix="Use --set ratio=0.1; 0.2 has half the rounds.",
            )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def rounds(self, case: Case) -> list[int]:
        """How many groups each round removes."""
        return rounds(case.tokens, case.keep, lambda t: max(1, int(self.ratio * t)))

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The rounds above."""
        import torch

        if case.keep == case.tokens:
            return select.every_token(tokens)
        x = tokens.float()
        group = torch.arange(case.tokens, device=x.device).repeat(len(x), 1)
        t = case.tokens
        for r in self.rounds(case):
            centres, _ = weighted_mean(x, torch.ones_like(x[..., 0]), group, t)
            square = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
            nearest = square.masked_fill(torch.ones_like(square[0], dtype=torch.bool).triu(), torch.inf).min(2)
            group = joined(group, select.top_k(-nearest.values, r), nearest.indices)
            t -= r
        far = (x - x.mean(1, keepdim=True)).square().sum(2)
        mine = group[:, None] == torch.arange(t, device=x.device)[:, None]
        kept = torch.where(mine, far[:, None], -1.0).argmax(2)
        order = kept.argsort(dim=1)
        return means(tokens, kept.gather(1, order), order.argsort(dim=1).gather(1, group))

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """Joins that lead to the same slots, each judged by its distance; and each position."""
        import torch

        if case.keep == case.tokens:
            return Replay(select.every_token(tokens), torch.zeros(len(tokens), dtype=torch.float64))
        regret = torch.maximum(
            linkage_regret(tokens, self.rounds(case), got.assignment, joined),
            farthest_regret(tokens, got.kept_indices, got.assignment),
        )
        return Replay(means(tokens, got.kept_indices, got.assignment.clamp(min=0)), regret)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """Rounds on the means of groups; who joins one that joins another follows it by Gathers of doubling reach."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        centred = b.op("Sub", x, b.op("ReduceMean", x, [1], keepdims=1))
        centres, group, t = centred, None, n
        for r in self.rounds(case):
            to = self._emit_round(b, centres, t, r)
            group = to if group is None else b.op("GatherElements", to, b.cast(group, "int64"), axis=1)
            t -= r
            if t > k:
                centres, _ = emit_mean_rows(b, centred, group, t)
        assert group is not None
        members = b.op("Equal", b.op("Unsqueeze", group, [1]), select.emit_iota(b, 1, k, 1))
        far = b.op("Unsqueeze", select.emit_square_sum(b, centred, keepdims=False), [1])
        farthest = select.emit_argmax(b, b.op("Where", members, far, -1.0), 2, (1, 1, n))
        position = b.op("Squeeze", farthest, [2])
        kept, _ = select.emit_sort(b, position, k)
        place = select.emit_rank(b, position, k, largest=False)
        return emit_means(b, case, x, kept, b.op("GatherElements", place, b.cast(group, "int64"), axis=1))

    def _emit_round(self, b: Builder, centres: ir.Value, t: int, r: int) -> ir.Value:
        """The group [B, t] float32 that each of t groups is in after r joined, for centres [B, t, D] float32."""
        before = b.const(np.tri(t, k=-1, dtype=bool)[None])
        closeness = b.op("Where", before, b.op("Neg", emit_square_distances(b, centres)), select.LOWEST)
        nearest = b.op("Squeeze", select.emit_argmax(b, closeness, 2, (1, 1, t)), [2])
        _, best = select.emit_top_k(b, b.op("ReduceMax", closeness, [2], keepdims=0), r, t)
        slots = select.emit_slots(b, b.cast(best, "float32"), t, select.emit_iota(b, 1, r))
        joins = b.op("GreaterOrEqual", slots, 0.0)
        end = b.cast(b.op("Where", joins, nearest, select.emit_iota(b, 1, t)), "int64")
        for _ in range(math.ceil(math.log2(r))):
            end = b.op("GatherElements", end, end, axis=1)
        earlier = b.op("And", b.op("Unsqueeze", b.op("Not", joins), [1]), before)
        own = b.op("ReduceSum", b.cast(earlier, "float32"), [2], keepdims=0)
        return b.op("GatherElements", own, end, axis=1)


def joined(group: torch.Tensor, joins: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
    """The group of each token after a round.

    Args:
        group: [B, N], before it.
        joins: [B, r], groups that join another.
        into: [B, t], the earlier group that each would join.
    """
    import torch

    end = torch.arange(into.shape[1], device=into.device).repeat(len(into), 1)
    stays = torch.ones_like(end).scatter(1, joins, 0)
    end = end.scatter(1, joins, into.gather(1, joins))
    while not end.equal(further := end.gather(1, end)):
        end = further
    return (stays.cumsum(1) - 1).gather(1, end).gather(1, group)
