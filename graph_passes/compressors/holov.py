"""HoloV: divide K among crops of the image by their mean attention, and keep the best of each crop.

Source: HoloV (arXiv 2510.02912, NeurIPS 2025) and its code. For attention a [N], P = 16 crops, K slots:

    crops   = P runs of consecutive indices; the first N mod P of them are one longer
    share_p = mean of a in crop p, over the sum of these means
    quota_p = floor(K share_p); the remaining slots go one each to the crops of the largest share
    kept    = the quota_p largest a of each crop; if a crop has fewer, the largest a of all others instead
    the kept tokens unchanged, in spatial order; all others are lost

The paper scores a crop by attention and by how much the similarities of its tokens vary. In the released code that
has no effect: the variances of a crop are scaled to the mean of its own attention, so every crop's score is
(1 + alpha) mean(a), and alpha = .09 cancels in the shares (run with .09 and with 0, it kept the same tokens in 60 of 60
trials). Inside a crop it ranks by attention alone. So similarities are left out here. The released code also leaves
slots of zeros if a crop has fewer tokens than its quota, and orders slots by crop, then by descending attention:
approximate. Domain: any K from 1 to N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import Attends
from .blocks.quotas import emit_fill_quotas, emit_parts, fill_quotas, quotas

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "holov",
    family="attention",
    modalities=("image",),
    merges=False,
    source="HoloV, arXiv 2510.02912",
    summary="divides K among crops by their mean attention and keeps the best of each",
    approximate=True,
)
@dataclass(frozen=True)
class Holov(Attends):
    """Parameters of HoloV.

    Attributes:
        crops: P, the number of runs of tokens the image is divided into, at most N.
    """

    crops: int = 16

    examples = (
        Example(Case(13, 5, 4)),
        Example(Case(13, 5, 4), crops=5),
    )

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise RequestError(
                f"crops {self.crops} is below 1", where="method 'holov'", fix="Use --set crops=16, as in the paper."
            )

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def lengths(self, case: Case) -> list[int]:
        """Tokens of each crop."""
        crops = min(self.crops, case.tokens)
        return [case.tokens // crops + (crop < case.tokens % crops) for crop in range(crops)]

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        import torch

        attention, lengths = self.attended(signals), self.lengths(case)
        means = torch.stack([crop.mean(1) for crop in attention.split(lengths, 1)], 1)
        quota = quotas(means / means.sum(1, keepdim=True).clamp(min=1e-30), case.keep)
        return select.selection(tokens, fill_quotas(attention, quota, lengths, case.keep))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """Crops as rows of a padded table; ranks in it by counting."""
        n, k, lengths = case.tokens, case.keep, self.lengths(case)
        if k == n:
            return select.emit_every_token(b, case, tokens)
        attention = self.emit_attended(b, signals)
        # Padding is last in its row and has no attention, so it never ranks before a token.
        table = emit_parts(b, attention, lengths, 0.0)
        means = b.op("Div", b.op("ReduceSum", table, [2], keepdims=0), b.const(np.array(lengths, np.float32)[None]))
        total = b.op("Max", b.op("ReduceSum", means, [1], keepdims=1), 1e-30)
        kept = emit_fill_quotas(b, attention, table, b.op("Div", means, total), lengths, k)
        return select.emit_selection(b, case, tokens, kept)
