"""AdaFV: some slots by CLS attention, the others by similarity to the text; the best split is searched.

Source: AdaFV (arXiv 2501.09532), before the language model; no code was found. For tokens X [N, D], attention a [N],
text rows T [L, D], K slots:

    s_i = mean over l of cosine(x_i, t_l), scaled to 0..1
    of every split m in 0..K: the m largest a, and the K - m largest s of all others
    kept = the split with the largest (sum of a) (sum of s) over its tokens, the smallest m among equals
    the kept tokens unchanged, in spatial order; all others are lost

Approximate: the paper's objective could not be read; it is described as a product of both means. All splits are
tried at once. Domain: any K from 1 to N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import Attends
from .blocks.quotas import ranks
from .blocks.replay import Replay
from .blocks.shares import emit_positions, positions_of
from .blocks.texts import ReadsText, emit_mean_cosine, mean_cosine

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_LEAST = 1e-6  # added to the range of s, which may be 0
_ALIKE = 1e-5  # of a cosine: about a hundred roundings


@compressor(
    "adafv",
    family="query",
    modalities=("image", "video", "audio"),
    merges=False,
    source="AdaFV, arXiv 2501.09532",
    summary="splits K between the tokens of the highest attention and those most similar to the text",
    approximate=True,
)
@dataclass(frozen=True)
class Adafv(Attends, ReadsText):
    """Parameters of AdaFV: the attention it ranks by, and the length of the text."""

    examples = (
        Example(Case(13, 5, 4)),
        Example(Case(13, 5, 4), attention="received"),
    )

    def signals(self) -> tuple[str, ...]:
        """The attention [B, N], and ``text`` [B, L, D]."""
        return (*Attends.signals(self), *ReadsText.signals(self))

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above, split by split."""
        import torch

        if case.keep == case.tokens:
            return select.every_token(tokens)
        attention, likeness, _ = self._scores(tokens, signals)
        splits = torch.stack([self._split(attention, likeness, m, case.keep) for m in range(case.keep + 1)], 1)
        best = self._objective(attention[:, None], likeness[:, None], splits).argmax(1)
        return select.selection(tokens, positions_of(splits[torch.arange(len(best)), best]))

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Of the splits that may have led to the kept tokens, the one that explains them best; attention is exact.

        Other splits count with the lowest objective they can have, whichever of equal tokens they would have kept.
        """
        import torch

        expected = select.selection(tokens, got.kept_indices)
        if case.keep == case.tokens:
            return Replay(expected, torch.zeros(len(tokens), dtype=torch.float64))
        attention, likeness, spread = self._scores(tokens, signals)
        kept = select.slots_of(got.kept_indices, case.tokens) >= 0
        least = [self._least(attention, likeness, m, case.keep, _ALIKE / spread) for m in range(case.keep + 1)]
        best = torch.stack(least, 1).amax(1)
        own = self._objective(attention, likeness, kept)
        # A cosine is rounded relative to 1, so s is rounded relative to 1 / range, times all attention, at most K
        # times.
        scale = best + own + 2 * case.keep * attention.sum(1) / spread[:, 0]
        lack = torch.where(best > own, (best - own) / scale, 0.0).double()
        regret = torch.full_like(lack, torch.inf)
        for m in range(case.keep + 1):
            first = select.slots_of(select.top_k(attention, m), case.tokens) >= 0
            chosen = likeness.masked_fill(~kept | first, torch.inf).amin(1)
            other = likeness.masked_fill(kept | first, -torch.inf).amax(1)
            worse = ((other - chosen).clamp(min=0) * spread[:, 0] / 2).double()
            fits = ~(first & ~kept).any(1)
            regret = torch.where(fits, torch.minimum(regret, torch.maximum(worse, lack)), regret)
        return Replay(expected, regret.cpu())

    def _scores(
        self, tokens: torch.Tensor, signals: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """a and s [B, N], and the range [B, 1] that s was scaled by."""
        likeness = mean_cosine(tokens, signals["text"])
        low = likeness.amin(1, keepdim=True)
        spread = likeness.amax(1, keepdim=True) - low + _LEAST
        return self.attended(signals), (likeness - low + _LEAST) / spread, spread

    @staticmethod
    def _split(attention: torch.Tensor, likeness: torch.Tensor, m: int, k: int) -> torch.Tensor:
        """The tokens a split keeps, [B, N] bool."""
        n = attention.shape[1]
        first = select.slots_of(select.top_k(attention, m), n) >= 0
        return first | (select.slots_of(select.top_k(likeness.masked_fill(first, -1.0), k - m), n) >= 0)

    def _least(
        self, attention: torch.Tensor, likeness: torch.Tensor, m: int, k: int, alike: torch.Tensor
    ) -> torch.Tensor:
        """The objective [B] of a split that keeps the least attention among tokens whose s is `alike` at its end."""
        import torch

        split = self._split(attention, likeness, m, k)
        first = select.slots_of(select.top_k(attention, m), attention.shape[1]) >= 0
        end = likeness.masked_fill(~split | first, torch.inf).amin(1, keepdim=True)
        tied = ((likeness - end).abs() <= alike) & ~first
        sure = split & ~tied
        rank = ranks(-attention.masked_fill(~tied, torch.inf))
        return self._objective(attention, likeness, sure | (tied & (rank < k - sure.sum(1, keepdim=True))))

    @staticmethod
    def _objective(attention: torch.Tensor, likeness: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        return (attention * kept).sum(-1) * (likeness * kept).sum(-1)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """Tokens in the order of their cosine; one row per split, in which a running sum counts the tokens kept."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        attention = self.emit_attended(b, signals)
        likeness = emit_mean_cosine(b, select.emit_float(b, tokens, case), signals["text"])
        low = b.op("ReduceMin", likeness, [1], keepdims=1)
        spread = b.op("Add", b.op("Sub", b.op("ReduceMax", likeness, [1], keepdims=1), low), _LEAST)
        scaled = b.op("Div", b.op("Add", b.op("Sub", likeness, low), _LEAST), spread)

        like, order = select.emit_top_k(b, scaled, n, n)
        rank = b.op("GatherElements", select.emit_rank(b, attention, n), order, axis=1)
        split = select.emit_iota(b, 1, k + 1, 1)
        first = b.op("Less", b.op("Unsqueeze", rank, [1]), split)
        taken = b.op("CumSum", b.cast(first, "float32"), b.const(np.array(2, np.int64)))
        place = b.op("Sub", select.emit_iota(b, 1, 1, n), taken)
        kept = b.op("Or", first, b.op("Less", place, b.op("Sub", float(k), split)))

        seen = b.op("GatherElements", attention, order, axis=1)
        sums = [
            b.op("ReduceSum", b.op("Where", kept, b.op("Unsqueeze", score, [1]), 0.0), [2], keepdims=0)
            for score in (seen, like)
        ]
        best = b.cast(select.emit_argmax(b, b.op("Mul", *sums), 1, (1, k + 1)), "int64")
        chosen = b.op("Greater", b.op("GatherND", b.cast(kept, "float32"), best, batch_dims=1), 0.0)
        kept = emit_positions(b, chosen, k, n, b.cast(order, "float32"))
        return select.emit_selection(b, case, tokens, kept)
