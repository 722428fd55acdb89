"""TRIM: keep the tokens selected by CLIP's text, and average all others into one.

Source: TRIM (arXiv 2409.10994) and its code, on CLIP before the projector. For tokens X [N, D], text rows T [L, D], K
slots:

    s_i     = x_i . mean of the text rows, negated if `inverted`
    kept    = the K - 1 largest s_i, unchanged
    the last slot is the plain mean of all others

It inherits the position of the token next in rank, and its size is the number of tokens in it (see `remainder`).
Released: s is a softmax over -s, which is the same order, so the tokens least similar to the text are kept. X are
CLIP's projected patches, T its one pooled text. Without K, it follows from the outliers of s. The mean comes after all
others. Domain: 2 <= K < N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.remainder import Fuses, emit_seats, seats
from .blocks.replay import Replay, top_k_regret
from .blocks.texts import RanksByText, emit_mean_product, mean_product

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_REST = Fuses(rest="mean")


@compressor(
    "trim",
    family="query",
    modalities=("image", "video", "audio"),
    merges=True,
    source="TRIM, arXiv 2409.10994",
    summary="keeps the tokens selected by a text and averages all others into one",
)
@dataclass(frozen=True)
class Trim(RanksByText):
    """Parameters of TRIM: the length of the text, and the sign of the similarity."""

    examples = (
        Example(Case(13, 5, 4), inverted=False),
        Example(Case(13, 5, 4), inverted=True),
    )

    def check(self, case: Case) -> None:
        """2 <= K < N."""
        _REST.check(case)

    def reference(self, case: Case, tokens: torch.Tensor, text: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        scores = self.signed(mean_product(tokens, text)[0])
        kept, seat = seats(scores, case.keep)
        return _REST.fuse(tokens, select.gather(tokens.float(), kept), scores, kept, seat)

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], text: torch.Tensor) -> Replay:
        """K - 1 rank before all others, and the token whose position the mean has ranks next."""
        import torch

        likeness, scale = mean_product(tokens, text)
        scores, index, seat = self.signed(likeness), got.kept_indices, got.sizes > 1
        slots = select.slots_of(index, case.tokens)
        kept = slots >= 0
        alone = kept & ~seat.gather(1, slots.clamp(min=0))
        regret = torch.maximum(top_k_regret(scores, alone, scale), top_k_regret(scores, kept, scale))
        return Replay(_REST.fuse(tokens, select.gather(tokens.float(), index), scores, index, seat), regret)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, text: ir.Value) -> Compressed[ir.Value]:
        """One TopK, and one MatMul for the mean."""
        x = select.emit_float(b, tokens, case)
        scores = self.emit_signed(b, emit_mean_product(b, x, text))
        kept, seat = emit_seats(b, scores, case.keep, case.tokens)
        content = select.emit_gather(b, x, b.cast(kept, "int64"))
        return _REST.emit_fuse(b, case, x, content, scores, kept, seat)
