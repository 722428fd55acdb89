"""EViT: keep the tokens with the highest CLS attention, and fuse all others into one.

Source: EViT (arXiv 2202.07800, ICLR 2022) and its code. For tokens X [N, D], attention a [N], K slots:

    kept = the K - 1 largest a_i, unchanged
    one more slot: the sum of a_j x_j over all others, with the weights not normalised

Released: inside blocks 3, 6 and 9 of a ViT, between attention and MLP, K - 1 = ceil(.7 (N - 1)) of the
patches, in descending attention with the fused token last, trained or at least finetuned that way. Here it is applied
at a seam (``--seam encoder_attention:3`` is the first of theirs; the recipe `evit-blocks` has all three), slots are in
spatial order, and the fused one has the position of the token of the K-th largest attention: approximate. Its size is
1, as in EViT's own attention (see `remainder`).

Domain: 2 <= K < N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.remainder import Fuses, emit_seats, seats

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "evit",
    family="attention",
    modalities=("image", "audio"),
    merges=True,
    source="EViT, arXiv 2202.07800",
    summary="keeps the tokens of the highest attention; one more slot holds the attention-weighted sum of all others",
    approximate=True,
)
@dataclass(frozen=True)
class Evit(Fuses):
    """Parameters of EViT: the attention it ranks by, and how the remaining tokens are fused."""

    examples = (
        Example(Case(13, 5, 4), rest="sum"),
        Example(Case(13, 5, 4), rest="mean"),
    )

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        attention = self.attended(signals)
        kept, seat = seats(attention, case.keep)
        return self.fuse(tokens, select.gather(tokens.float(), kept), attention, kept, seat)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """One TopK, one sort, one gather, one product with a row of weights."""
        x, attention = select.emit_float(b, tokens, case), self.emit_attended(b, signals)
        kept, seat = emit_seats(b, attention, case.keep, case.tokens)
        content = select.emit_gather(b, x, b.cast(kept, "int64"))
        return self.emit_fuse(b, case, x, content, attention, kept, seat)
