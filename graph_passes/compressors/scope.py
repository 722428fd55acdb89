"""SCOPE: the subset that covers all tokens best, where salient tokens count more.

Source: SCOPE (arXiv 2510.24214, NeurIPS 2025) and its code, before the projector. For tokens X [N, D], attention
a [N], K slots:

    cover_i = max(0, max_{j picked} cosine(x_i, x_j))
    gain_j  = sum_i max(0, cosine(x_i, x_j) - cover_i)
    K times argmax_j gain_j a_j^alpha; the picked tokens unchanged, in spatial order; all others are lost

Released: the CLS row of the second last layer's attention, summed over heads (here the mean, the same order), and
int(K / crops) tokens of each crop; here K counts one set. Without a CLS token `attention` "received" ranks by the
attention that a token receives. If no token has any gain left, the lowest index is picked. Domain: any K from 1 to N;
K = N is the identity.

The ONNX body is unrolled: ten nodes per pick, 1,313 at K = 128. Each pick reads all N^2 cosines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import Attends
from .blocks.cosine import cosines, emit_cosines
from .blocks.greedy import Rule, emit_greedy, greedy, greedy_regret
from .blocks.replay import Replay

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

# How well a picked token covers itself: above every cosine, so that it also marks picked tokens.
_TAKEN = 2.0


@compressor(
    "scope",
    family="similarity",
    modalities=("image", "video", "audio"),
    merges=False,
    source="SCOPE, arXiv 2510.24214",
    summary="keeps the tokens that cover all others best, weighted by attention",
    plugin=True,
    heavy="each pick reads all N^2 cosines",
)
@dataclass(frozen=True)
class Scope(Attends):
    """Parameters of SCOPE, with the attention it weights gains by.

    Attributes:
        alpha: power of the attention that weights a gain; 0 ranks by coverage alone.
    """

    alpha: float = 1.0

    examples = (
        Example(Case(13, 5, 4)),
        Example(Case(13, 5, 4), alpha=0.5, attention="received"),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 10:
            raise RequestError(
                f"alpha {self.alpha} is outside 0..10",
                where="method 'scope'",
                fix="Use --set alpha=1, as in the paper.",
            )

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        kept = greedy(self._rule(tokens, **signals), case.keep)
        return select.selection(tokens, kept.sort(dim=1).values)

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Each pick must be as good as the best; a gain is rounded relative to the cosines that it sums."""
        rules = (
            self._rule(one, **{name: signal[i : i + 1] for name, signal in signals.items()})
            for i, one in enumerate(tokens.split(1))
        )
        return Replay(select.selection(tokens, got.kept_indices), greedy_regret(rules, got.kept_indices))

    def _rule(self, tokens: torch.Tensor, **signals: torch.Tensor) -> Rule[torch.Tensor]:
        """The state is how well each token is covered [B, N]."""
        import torch

        cosine = cosines(tokens.float())
        weight = self.attended(signals) ** self.alpha
        row = torch.arange(len(cosine), device=cosine.device)

        def gains(cover: torch.Tensor) -> torch.Tensor:
            return (cosine - cover[:, None]).clamp(min=0).sum(2) * weight

        def update(cover: torch.Tensor, pick: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            cover = torch.maximum(cover, cosine[row, pick])
            return cover, gains(cover)

        nothing = torch.zeros_like(weight)
        return Rule(gains(nothing), nothing, update, cosine.abs().sum(2) * weight)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """One MatMul for all cosines; each pick reads all of them again."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        cosine = emit_cosines(b, select.emit_float(b, tokens, case))
        rows = b.op("Where", b.const(np.eye(n, dtype=bool)[None]), _TAKEN, cosine)
        weight = self.emit_attended(b, signals)
        if self.alpha != 1:
            weight = b.op("Pow", weight, float(self.alpha))
        first = b.op("Mul", b.op("ReduceSum", b.op("Relu", cosine), [2], keepdims=0), weight)
        cover: ir.Value | None = None

        def update(pick: ir.Value) -> ir.Value:
            nonlocal cover
            row = b.op("GatherND", rows, pick, batch_dims=1)
            cover = b.op("Max", cover, row) if cover is not None else b.op("Relu", row)
            rest = b.op("Relu", b.op("Sub", cosine, b.op("Unsqueeze", cover, [1])))
            gain = b.op("Mul", b.op("ReduceSum", rest, [2], keepdims=0), weight)
            return b.op("Where", b.op("Greater", cover, (1 + _TAKEN) / 2), -1.0, gain)

        kept, _ = select.emit_sort(b, emit_greedy(b, first, update, n, k), k)
        return select.emit_selection(b, case, tokens, kept)
