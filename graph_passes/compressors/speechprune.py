"""SpeechPrune: each second of speech gets slots by its similarity to the text, and keeps its most similar tokens.

Source: SpeechPrune (arXiv 2412.12009), its first phase, before the language model; no code was found. For tokens X
[N, D] of `second` = 25 per second, text rows T [L, D], K slots:

    F_i     = mean over l of cosine(x_i, t_l)
    p_g     = softmax over seconds of the sum of F in second g
    quota_g = floor(K p_g), and of each second the quota_g tokens of the largest F (see `quotas`)
    the kept tokens unchanged, in order; all others are lost

Approximate: the paper does not say where slots left by rounding go (here one each to the largest p), nor those of a
second whose quota exceeds its tokens (here to the largest F of all others). Its second phase ranks the remaining tokens
by the attention of the language model's first layer with the signs of its weights, which are not available here. The
last second may be shorter. Domain: any K from 1 to N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.quotas import WHOLE, emit_fill_quotas, emit_parts, fill_quotas, quotas, ranks
from .blocks.replay import Replay, top_k_regret
from .blocks.texts import ReadsText, emit_mean_cosine, mean_cosine

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_ROUNDING = 1e-4  # rounding of a quota: a share is rounded by about 1e-6, and K is a few hundred


@compressor(
    "speechprune",
    family="query",
    modalities=("audio",),
    merges=False,
    source="SpeechPrune, arXiv 2412.12009",
    seam="projector_output",
    summary="divides K among seconds by similarity to the text and keeps the most similar tokens (fixed-count form)",
    approximate=True,
)
@dataclass(frozen=True)
class Speechprune(ReadsText):
    """Parameters of SpeechPrune.

    Attributes:
        second: tokens per second.
    """

    second: int = 25

    examples = (
        Example(Case(13, 5, 4), second=4),
        Example(Case(13, 5, 4), second=25),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.second < 1:
            raise RequestError(
                f"second {self.second} is below 1",
                where="method 'speechprune'",
                fix="Use --set second=25, as in the paper.",
            )

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def lengths(self, case: Case) -> list[int]:
        """Tokens of each second."""
        return [min(self.second, case.tokens - start) for start in range(0, case.tokens, self.second)]

    def reference(self, case: Case, tokens: torch.Tensor, text: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        likeness, shares = self._shares(case, tokens, text)
        kept = fill_quotas(likeness, quotas(shares, case.keep), self.lengths(case), case.keep)
        return select.selection(tokens, kept)

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], text: torch.Tensor) -> Replay:
        """A cosine is rounded relative to 1. If that decides a quota, the quota that explains the result is used.

        It may decide whether a quota is a whole number, and which of two equal seconds gets a slot left by rounding.
        """
        import torch

        likeness, shares = self._shares(case, tokens, text)
        kept = select.slots_of(got.kept_indices, case.tokens) >= 0
        ways = (WHOLE, WHOLE - _ROUNDING, WHOLE + _ROUNDING)
        explained = [self._quotas(case, likeness, shares, kept, whole) for whole in ways]
        regrets = [self._regret(case, likeness, quota, kept) for quota in explained]
        return Replay(select.selection(tokens, got.kept_indices), torch.stack(regrets).amin(0))

    def _shares(self, case: Case, tokens: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """F [B, N] and p [B, G]."""
        import torch

        likeness = mean_cosine(tokens, text)
        return likeness, torch.stack([part.sum(1) for part in likeness.split(self.lengths(case), 1)], 1).softmax(1)

    def _quotas(
        self, case: Case, scores: torch.Tensor, shares: torch.Tensor, kept: torch.Tensor, whole: float
    ) -> torch.Tensor:
        """Quotas [B, G]; of equal seconds those whose kept [B, N] tokens show it get the slots left by rounding."""
        import torch

        quota = (case.keep * shares + whole).floor()
        left = case.keep - quota.sum(1, keepdim=True)
        rank = ranks(shares)
        end = shares.masked_fill(rank >= left, torch.inf).amin(1, keepdim=True)
        tied = (shares - end).abs() <= _ROUNDING / case.keep
        # The token for which a second would need one more slot. The lowest kept one needs it most: the highest of all
        # others are kept without it. A full second leaves its slot to them, and one without such a token had none.
        more = []
        for part, own, count in zip(*(x.split(self.lengths(case), 1) for x in (scores, kept)), quota.unbind(1)):
            best = part.masked_fill(~own, torch.inf).sort(dim=1).values
            held = own.sum(1)
            place = (held - 1 - count.long()).clamp(min=0, max=part.shape[1] - 1)
            needs = best.gather(1, place[:, None])[:, 0]
            needs = torch.where(held > count, needs, torch.inf)
            more.append(torch.where(count >= part.shape[1], -select.LOWEST, needs))
        sure = (rank < left) & ~tied
        wanting = ranks(-torch.stack(more, 1).masked_fill(~tied, torch.inf))
        return quota + (sure | (tied & (wanting < left - sure.sum(1, keepdim=True))))

    def _regret(self, case: Case, scores: torch.Tensor, quota: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Of kept [B, N], for these quotas: first per second, then over all remaining tokens."""
        import torch

        lengths = self.lengths(case)
        inside, regret = [], torch.zeros(len(scores), dtype=torch.float64)
        for part, own, share in zip(*(x.split(lengths, 1) for x in (scores, kept)), quota.unbind(1)):
            count = share.clamp(max=part.shape[1])[:, None]
            first = ranks(part.masked_fill(~own, select.LOWEST)) < count
            regret = torch.maximum(regret, top_k_regret(part, first & own, torch.ones_like(part)))
            regret = regret.masked_fill((first & ~own).any(1).cpu(), torch.inf)
            inside.append(first)
        taken = torch.cat(inside, 1)
        others = scores.masked_fill(taken, select.LOWEST)
        return torch.maximum(regret, top_k_regret(others, kept & ~taken, torch.ones_like(scores)))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, text: ir.Value) -> Compressed[ir.Value]:
        """Seconds as rows of a padded table."""
        n, k, lengths = case.tokens, case.keep, self.lengths(case)
        if k == n:
            return select.emit_every_token(b, case, tokens)
        likeness = emit_mean_cosine(b, select.emit_float(b, tokens, case), text)
        sums = b.op("ReduceSum", emit_parts(b, likeness, lengths, 0.0), [2], keepdims=0)
        table = emit_parts(b, likeness, lengths, select.LOWEST)
        kept = emit_fill_quotas(b, likeness, table, b.op("Softmax", sums, axis=1), lengths, k)
        return select.emit_selection(b, case, tokens, kept)
