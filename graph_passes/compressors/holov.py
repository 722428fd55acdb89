"""HoloV: share K out over crops of the picture by their mean attention, and keep the best of each crop.

Source: HoloV (arXiv 2510.02912, NeurIPS 2025) and its code. For attention a [N], P = 16 crops, K slots:

    crops   = P runs of neighbouring indices; the first N mod P of them are one longer
    share_p = mean of a in crop p, over the sum of these means
    quota_p = floor(K share_p); what is left of K goes one each to the crops of the largest share
    kept    = the quota_p largest a of each crop; where a crop has fewer, the largest a of all others instead
    the kept tokens as they are, in spatial order; all others are lost

The paper scores a crop by attention and by how much the similarities of its tokens vary. In the released code that
changes nothing: the variances of a crop are scaled to the mean of its own attention, so their mean is alpha times that
attention whatever they are, every crop's score is (1 + alpha) mean(a), and alpha = .09 cancels in the shares (run with
.09 and with 0, it kept the same tokens in 60 of 60 trials). Inside a crop it ranks by attention alone. So similarities
are left out here. It also leaves slots of zeros where a crop has fewer tokens than its quota, and has slots in the
order of crops, by descending attention inside: approximate. Law: any K from 1 to N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RequestError
from . import select
from .attended import Attends
from .base import Case, Compressed, compressor

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..builder import Builder

# A quota this little below a whole number is that number: shares of equal crops must not depend on rounding.
_WHOLE = 1e-5


@compressor(
    "holov",
    family="attention",
    modalities=("image",),
    merges=False,
    source="HoloV, arXiv 2510.02912",
    summary="shares K out over crops by their mean attention and keeps the best of each",
    approximate=True,
)
@dataclass(frozen=True)
class Holov(Attends):
    """Parameters of HoloV.

    Attributes:
        crops: P, into how many runs of tokens the picture is cut; N of them where N is less.
    """

    crops: int = 16

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise RequestError(
                f"crops {self.crops} is below 1", where="method 'holov'", fix="Use --set crops=16, as the paper."
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

        attention = self.attended(signals)
        crops = attention.split(self.lengths(case), 1)
        means = torch.stack([crop.mean(1) for crop in crops], 1)
        quota = (case.keep * means / means.sum(1, keepdim=True).clamp(min=1e-30) + _WHOLE).floor()
        left = case.keep - quota.sum(1, keepdim=True)
        quota = quota + (_ranks(means) < left)
        ranks = torch.cat([_ranks(crop) - share[:, None] for crop, share in zip(crops, quota.unbind(1))], 1)
        order = select.top_k(attention, case.tokens)
        inside_first = (ranks < 0).gather(1, order).int().argsort(dim=1, descending=True, stable=True)
        kept = order.gather(1, inside_first)[:, : case.keep]
        return select.selection(tokens, kept.sort(dim=1).values)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """Crops as rows of a padded table; ranks in it by counting."""
        n, k, lengths = case.tokens, case.keep, self.lengths(case)
        if k == n:
            return select.emit_every_token(b, case, tokens)
        attention = self.emit_attended(b, signals)
        # The places of padding are the last of their rows and have no attention, so that none is before a token.
        crops, longest = len(lengths), lengths[0]
        place = np.concatenate([row * longest + np.arange(length) for row, length in enumerate(lengths)])
        index = np.full(crops * longest, n, np.int64)
        index[place] = np.arange(n)
        padded = b.op("Concat", attention, select.emit_rows(b, attention, np.zeros(1, np.float32)), axis=1)
        table = b.op("Reshape", b.op("Gather", padded, index, axis=1), [-1, crops, longest])
        sums = b.op("ReduceSum", table, [2], keepdims=0)
        means = b.op("Div", sums, b.const(np.array(lengths, np.float32)[None]))
        total = b.op("Max", b.op("ReduceSum", means, [1], keepdims=1), 1e-30)
        quota = b.op("Floor", b.op("Add", b.op("Div", b.op("Mul", means, float(k)), total), _WHOLE))
        left = b.op("Sub", float(k), b.op("ReduceSum", quota, [1], keepdims=1))
        more = b.op("Less", select.emit_rank(b, means, crops), left)
        quota = b.op("Unsqueeze", b.op("Add", quota, b.cast(more, "float32")), [2])
        outside = b.cast(b.op("GreaterOrEqual", select.emit_rank(b, table, longest), quota), "float32")
        outside = b.op("Gather", b.op("Reshape", outside, [-1, crops * longest]), place, axis=1)

        _, order = select.emit_top_k(b, attention, n, n)
        behind = b.op("Mul", b.op("GatherElements", outside, order, axis=1), float(n))
        _, first = select.emit_top_k(b, b.op("Add", behind, select.emit_iota(b, 1, n)), k, n, largest=False)
        kept, _ = select.emit_sort(b, b.op("GatherElements", order, first, axis=1), k)
        return select.emit_selection(b, case, tokens, kept)


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """The rank [B, n] of each of scores [B, n], 0 for the largest, the lowest index first among equals."""
    return select.top_k(scores, scores.shape[1]).argsort(dim=1)
