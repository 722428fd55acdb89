"""A-ToMe: the most similar neighbours in time are averaged, round after round, until K are left.

Source: A-ToMe (arXiv 2306.16009, Interspeech 2023), which merges inside the blocks of a speech encoder, between
attention and feed-forward, by a threshold or a fixed ratio; here the fixed ratio, and all rounds at one seam (the
recipe `a-tome-blocks` has one in every block). One round on t tokens with a metric M [t, Dk]:

    pairs    (0, 1), (2, 3), ...: each token at an even position and the next one
    r        = min(t - K, floor(ratio t)) pairs of the largest cosine(M_2i, M_2i+1), the lowest index among equals
    each pair becomes its mean, weighted by size; all tokens stay in order, and the next round pairs them again

Every slot is the mean of a run of tokens, and its size is their number; it inherits the last position of the run. The
metric of a slot is the mean of its tokens'. Differs from the paper: no code was released, and the paper does not say
how pairs that share a token exclude each other. So only pairs from even positions are merged, as in ToMe. The metric is
not recomputed by an encoder block between rounds. Domain: any K from 1 to N; K = N is the identity.

A ratio of 1/2 merges all pairs in every round but the last. A smaller one has more rounds and more choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.bipartite import Folding, rounds
from .blocks.cosine import emit_unit
from .blocks.means import emit_means, means
from .blocks.replay import Replay
from .replays.a_tome import after, neighbour_cosines, rounds_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "a_tome",
    family="similarity",
    modalities=("audio",),
    merges=True,
    source="A-ToMe, arXiv 2306.16009",
    summary="averages the most similar neighbours in time, in repeated rounds",
    approximate=True,
)
@dataclass(frozen=True)
class ATome:
    """Parameters of A-ToMe.

    Attributes:
        metric: what similarity is computed from: keys of the last attention, or the tokens.
        ratio: largest share of tokens that a round removes.
    """

    metric: Literal["keys", "tokens"] = "keys"
    ratio: float = 0.2

    examples = (
        Example(Case(13, 5, 4), ratio=0.2),
        Example(Case(13, 5, 4), ratio=0.5),
        Example(Case(13, 5, 4), metric="tokens", ratio=0.34),
    )

    def __post_init__(self) -> None:
        if not 0.05 <= self.ratio <= 0.5:
            raise RequestError(
                f"ratio {self.ratio} is outside 0.05..0.5: a round has one pair per two tokens",
                where="method 'a_tome'",
                fix="Use --set ratio=0.2.",
            )

    def signals(self) -> tuple[str, ...]:
        """``keys`` [B, N, Dk] if they are the metric."""
        return ("keys",) if self.metric == "keys" else ()

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def rounds(self, case: Case) -> list[int]:
        """How many tokens each round removes."""
        return rounds(case.tokens, case.keep, lambda t: max(1, int(self.ratio * t)))

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The rounds above."""
        now = Folding.begin(signals.get("keys", tokens).float(), None)
        for r in self.rounds(case):
            now = after(now, select.top_k(neighbour_cosines(now.metric), r))
        return means(tokens, now.kept, now.slot)

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Merges that lead to the same slots, each checked by its cosine."""
        metric = signals.get("keys", tokens).float()
        regret = rounds_regret(metric, self.rounds(case), got.kept_indices, got.assignment)
        return Replay(means(tokens, got.kept_indices, got.assignment.clamp(min=0)), regret)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """Rounds on sums of the metric (same direction as the means); the tokens are merged once, at the end."""
        n = case.tokens
        if case.keep == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        sums = select.emit_float(b, signals["keys"], case) if self.metric == "keys" else x
        kept = slot = None
        t = n
        for r in self.rounds(case):
            sums, slots, stays = self._emit_round(b, sums, t, r)
            index = b.cast(stays, "int64")
            sums = select.emit_gather(b, sums, index)
            kept = stays if kept is None else b.op("GatherElements", kept, index, axis=1)
            slot = slots if slot is None else b.op("GatherElements", slots, b.cast(slot, "int64"), axis=1)
            t -= r
        assert kept is not None and slot is not None
        return emit_means(b, case, x, kept, slot)

    def _emit_round(self, b: Builder, sums: ir.Value, t: int, r: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """One round on sums [B, t, Dk] float32.

        Returns:
            The sums, those of merged tokens added to the next token's, the slot [B, t] of each token, and the
            tokens [B, t - r] that keep their own, both float32.
        """
        pairs, alone = t // 2, None
        if t % 2:
            alone = b.op("Slice", sums, [t - 1], [t], [1])
            sums = b.op("Slice", sums, [0], [t - 1], [1])
        first, second = (b.op("Slice", sums, [i], [t], [1], [2]) for i in (0, 1))
        cosine = b.op("ReduceSum", b.op("Mul", emit_unit(b, first), emit_unit(b, second)), [2], keepdims=0)
        _, best = select.emit_top_k(b, cosine, r, pairs)
        merged, pair = b.op("Unsqueeze", b.cast(best, "float32"), [2]), select.emit_iota(b, 1, 1, pairs)
        merges = b.op("ReduceMax", b.cast(b.op("Equal", merged, pair), "float32"), [1], keepdims=0)
        before = b.op("ReduceSum", b.cast(b.op("Less", merged, pair), "float32"), [1], keepdims=0)

        both = b.op("Where", b.op("Unsqueeze", b.op("Greater", merges, 0.0), [2]), b.op("Add", first, second), second)
        sums = self._emit_in_turn(b, first, both, [0, 2 * pairs, -1])
        # A merged token and the next one share a slot, and all later slots move up by one.
        slot_first = b.op("Sub", b.const(np.arange(0, 2 * pairs, 2, dtype=np.float32)[None]), before)
        slot_second = b.op("Sub", b.op("Add", slot_first, 1.0), merges)
        slots = self._emit_in_turn(b, slot_first, slot_second, [0, 2 * pairs])
        if alone is not None:
            sums = b.op("Concat", sums, alone, axis=1)
            slots = b.op("Concat", slots, select.emit_rows(b, slots, np.full(1, t - 1 - r, np.float32)), axis=1)
        here = b.op("Equal", b.op("Unsqueeze", slots, [1]), select.emit_iota(b, 1, t - r, 1))
        stays = b.op("ReduceMax", b.op("Where", here, select.emit_iota(b, 1, 1, t), -1.0), [2], keepdims=0)
        return sums, slots, stays

    def _emit_in_turn(self, b: Builder, first: ir.Value, second: ir.Value, shape: list[int]) -> ir.Value:
        """The entries [B, pairs, ...] of both, interleaved."""
        two = [b.op("Unsqueeze", x, [2]) for x in (first, second)]
        return b.op("Reshape", b.op("Concat", *two, axis=2), shape)
