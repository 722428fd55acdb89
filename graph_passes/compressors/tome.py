"""ToMe: the most similar pairs of tokens are averaged, round after round, until K are left.

Source: ToMe (arXiv 2210.09461, ICLR 2023), which merges r tokens in each block of an encoder, between its attention and
its MLP (``--seam 'encoder_attention:*'``, the recipe `tome-blocks`); here all rounds run at one seam. For a metric M
[t, Dk] of t tokens:

    A = tokens at even positions, B = those at odd ones
    every a finds its most similar b: argmax_b cosine(M_a, M_b), the lowest among equals
    the r tokens of A with the highest similarity merge into their b, as means weighted by size

Each round removes as many as it can, r = min(t - K, floor(t / 2)), and the next one pairs the remaining tokens in
spatial order, by the size-weighted means of the metric. Means of means weighted by size are plain means: every slot is
the mean of its tokens, and its size is their number.

Differs from the released code: slots are in spatial order, between rounds too, instead of the rest of A before B. A
slot inherits the position of its token of B, or of the unmerged token of A. The metric is the keys of the last
attention before the seam (mean over heads), as in the paper, or the tokens. Domain: any K from 1 to N; K = N is the
identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.bipartite import emit_fold, fold, rounds
from .blocks.means import emit_means, means
from .blocks.replay import Replay
from .replays.bipartite import refold_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "tome",
    family="similarity",
    modalities=("image", "video", "audio"),
    merges=True,
    source="ToMe, arXiv 2210.09461",
    summary="averages the most similar pairs of tokens, in repeated rounds",
    plugin=True,
)
@dataclass(frozen=True)
class Tome:
    """Parameters of ToMe.

    Attributes:
        metric: what similarity is computed from: keys of the last attention, or the tokens.
    """

    metric: Literal["keys", "tokens"] = "keys"

    examples = (
        Example(Case(13, 5, 4), metric="keys"),
        Example(Case(13, 5, 4), metric="tokens"),
    )

    def signals(self) -> tuple[str, ...]:
        """``keys`` [B, N, Dk] if they are the metric."""
        return ("keys",) if self.metric == "keys" else ()

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def rounds(self, case: Case) -> list[int]:
        """How many tokens each round removes."""
        return rounds(case.tokens, case.keep, lambda t: t // 2)

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The rounds above."""
        metric = signals.get("keys", tokens).float()
        return means(tokens, *fold(metric, self.rounds(case)))

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Merges that lead to the same slots, each checked by its cosine."""
        metric = signals.get("keys", tokens).float()
        regret = refold_regret(metric, self.rounds(case), got.kept_indices, got.assignment)
        return Replay(means(tokens, got.kept_indices, got.assignment.clamp(min=0)), regret)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """Rounds on the metric only; the tokens are merged once, after the last."""
        if case.keep == case.tokens:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        metric = select.emit_float(b, signals["keys"], case) if self.metric == "keys" else x
        kept, slot = emit_fold(b, metric, case.tokens, self.rounds(case))
        return emit_means(b, case, x, kept, slot)
