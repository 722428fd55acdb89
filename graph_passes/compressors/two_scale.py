"""two_scale: more farthest points than slots, and then the groups around them with the nearest means are merged.

Source: this project's own method. For tokens X [N, D] and K slots:

    P = min(N, points K) farthest points of X (L2, raw features), starting at the first token, in picking order
    each token joins its nearest point in L2, the earliest pick among equals; a point joins itself: P groups

and then agglomerative clustering with centroid linkage, in rounds of fixed counts. One on t groups of means M [t, D]:

    each group but the first finds its nearest earlier one: argmin_(b < a) |M_a - M_b|^2, the lowest among equals
    r = min(t - K, max(1, floor(ratio t))) groups of the least such distance join it, and the group which that joins

A slot is the plain mean of its tokens, its size their number, its position that of its earliest pick. Farthest points
find outliers, but spend several slots on one object that varies; the means of groups distinguish the two.
Domain: any K from 1 to N; K = N is the identity. points = 1 is `kcenter_merge`.

Accuracy with log(size), against `kcenter_merge` on the same held-out questions (4,096 and 2,048):
tiny-vlm .981 / .975 at 7 of 144 tokens and .989 / .989 at 14; tiny-asr .948 / .916 at 10 of 200 and .989 / .980 at 20.
`tokexport sweep tiny-asr --method two_scale --method kcenter_merge --ratio 0.95` measures it again.

Lloyd iterations, k-medoids, Ward or complete linkage instead of the means' distance, and added positions were not
better.

The ONNX body computes the distances of all pairs at once, as that of `kcenter_merge` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.bipartite import rounds, weighted_mean
from .blocks.farthest import emit_picks, farthest_points
from .blocks.means import emit_mean_rows, emit_means, means
from .blocks.replay import Replay
from .blocks.squares import emit_distances_between, emit_near_zero, emit_square_distances, square_distances
from .replays.two_scale import Joins, groups_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "two_scale",
    family="similarity",
    modalities=("image", "video", "audio"),
    merges=True,
    source="tokexport",
    summary="groups around more farthest points than slots; those with the nearest means are merged",
    heavy="all N^2 distances, and twice as many picks in turn as there are slots",
)
@dataclass(frozen=True)
class TwoScale:
    """Parameters of two_scale.

    Attributes:
        points: farthest points per slot.
        ratio: largest share of groups that a round removes.
    """

    points: int = 2
    ratio: float = 0.2

    examples = (Example(Case(13, 5, 4)),)

    def __post_init__(self) -> None:
        if not 1 <= self.points <= 16:
            raise RequestError(
                f"points {self.points} is outside 1..16", where="method 'two_scale'", fix="Use --set points=2."
            )
        if not 0.05 <= self.ratio <= 0.5:
            raise RequestError(
                f"ratio {self.ratio} is outside 0.05..0.5", where="method 'two_scale'", fix="Use --set ratio=0.2."
            )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def picked(self, case: Case) -> int:
        """How many farthest points are picked."""
        return min(case.tokens, self.points * case.keep)

    def rounds(self, case: Case) -> list[int]:
        """How many groups each round removes."""
        return rounds(self.picked(case), case.keep, lambda t: max(1, int(self.ratio * t)))

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        import torch

        if case.keep == case.tokens:
            return select.every_token(tokens)
        x = tokens.float()
        picks = farthest_points(x, self.picked(case), "first")
        to_points = square_distances(x, select.gather(x, picks)).scatter(1, picks[:, None], -torch.inf)
        group = to_points.argmin(2)
        for r in self.rounds(case):
            t = picks.shape[1]
            centres, _ = weighted_mean(x, torch.ones_like(x[..., 0]), group, t)
            square = square_distances(centres, centres)
            nearest = square.masked_fill(torch.ones_like(square[0], dtype=torch.bool).triu(), torch.inf).min(2)
            group, stays = joined(group, select.top_k(-nearest.values, r), nearest.indices)
            picks = picks[stays].view(len(x), t - r)
        order = picks.argsort(dim=1)
        return means(tokens, picks.gather(1, order), order.argsort(dim=1).gather(1, group))

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """Picks and joins that lead to the same slots, each checked by its distance."""
        import torch

        if case.keep == case.tokens:
            return Replay(select.every_token(tokens), torch.zeros(len(tokens), dtype=torch.float64))
        plan: Joins = self.picked(case), self.rounds(case), joined
        regret = groups_regret(tokens, plan, got.kept_indices, got.assignment)
        return Replay(means(tokens, got.kept_indices, got.assignment.clamp(min=0)), regret)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """Rounds on the means of groups; chains of joins are followed by Gathers of doubling reach."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        centred = emit_near_zero(b, x, n)
        t = self.picked(case)
        picks, group = self._emit_groups(b, emit_distances_between(b, centred, n), n, t)
        for r in self.rounds(case):
            centres, _ = emit_mean_rows(b, centred, group, t)
            to, stays = self._emit_round(b, centres, t, r)
            group = b.op("GatherElements", to, b.cast(group, "int64"), axis=1)
            picks = b.op("GatherElements", picks, b.cast(stays, "int64"), axis=1)
            t -= r
        kept, _ = select.emit_sort(b, picks, k)
        place = select.emit_rank(b, picks, k, largest=False)
        return emit_means(b, case, x, kept, b.op("GatherElements", place, b.cast(group, "int64"), axis=1))

    def _emit_groups(self, b: Builder, square: ir.Value, n: int, t: int) -> tuple[ir.Value, ir.Value]:
        """The t points [B, t] in the order they are picked, and the group [B, n] of each token, both float32."""
        picks = emit_picks(b, square, select.emit_rows(b, square, np.zeros((1, 1), np.int64)), n, t)
        closeness = b.op("Neg", select.emit_gather(b, square, b.cast(picks, "int64")))
        return picks, b.op("Squeeze", select.emit_argmax(b, closeness, 1, (1, t, 1)), [1])

    def _emit_round(self, b: Builder, centres: ir.Value, t: int, r: int) -> tuple[ir.Value, ir.Value]:
        """One round on centres [B, t, D] float32.

        Returns:
            The group [B, t] that each of t groups is in afterwards, and the groups [B, t - r] that joined none, both
            float32.
        """
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
        left = b.op("Where", joins, -1.0, own)
        at_slot = b.op("Equal", b.op("Unsqueeze", left, [1]), select.emit_iota(b, 1, t - r, 1))
        stays = b.op("ReduceMax", b.op("Where", at_slot, select.emit_iota(b, 1, 1, t), -1.0), [2], keepdims=0)
        return b.op("GatherElements", own, end, axis=1), stays


def joined(group: torch.Tensor, joins: torch.Tensor, into: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One round.

    Args:
        group: [B, N], of each token.
        joins: [B, r], groups that join another.
        into: [B, t], the earlier group that each would join.

    Returns:
        The group of each token afterwards, and which of the t groups joined none [B, t] bool.
    """
    import torch

    end = torch.arange(into.shape[1], device=into.device).repeat(len(into), 1)
    stays = torch.ones_like(end, dtype=torch.bool).scatter(1, joins, False)
    end = end.scatter(1, joins, into.gather(1, joins))
    while not end.equal(further := end.gather(1, end)):
        end = further
    return (stays.cumsum(1) - 1).gather(1, end).gather(1, group), stays
