"""holitom_inner: HoliTom in the language model: keep the most attended tokens, blend each other one into its nearest.

Source: HoliTom (arXiv 2505.21334, NeurIPS 2025) and its code, in front of layer 18 of its language model, which keeps
half. For tokens X [N, D], attention a [N] of the prompt's last id, K slots:

    kept = the K largest a_i
    each other token goes to the kept one of the highest cosine, the lowest position first among equals
    one after the other, in spatial order: slot <- (slot + x) / 2

So of the n tokens that go to a slot the last has the weight 1/2, the one before it 1/4, ..., and the first 2^-n, which
is that of the kept token as well. ``blend`` "mean" is their plain mean, which is what `sizes` say. Slots are in spatial
order, at the positions of the kept tokens. Among equal cosines the code takes the token of the larger attention:
approximate. Domain: any K from 1 to N; K = N is the identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import Attends
from .blocks.cosine import cosines, emit_cosines
from .blocks.replay import Replay, nearest_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "holitom_inner",
    family="attention",
    modalities=("image", "video", "audio"),
    merges=True,
    source="HoliTom, arXiv 2505.21334",
    summary="keeps the tokens of the highest attention, and blends each other one into the most similar of them",
    approximate=True,
)
@dataclass(frozen=True)
class HolitomInner(Attends):
    """Parameters of HoliTom's stage in the language model.

    Attributes:
        blend: ``halves``, one token after the other by halves, as released; ``mean``, the mean of all of a slot.
    """

    blend: Literal["halves", "mean"] = "halves"

    examples = (
        Example(Case(13, 5, 4)),
        Example(Case(13, 5, 4), blend="mean"),
        Example(Case(13, 5, 4), attention="words"),
    )

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        kept, cosine = self._slots(case, tokens, signals)
        return self._blended(tokens, kept, cosine.argmax(2))

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Attention is not rounded, so slots must agree exactly; where the others went is checked by their cosine."""
        import torch

        if case.keep == case.tokens:
            return Replay(select.every_token(tokens), torch.zeros(len(tokens)).double())
        kept, cosine = self._slots(case, tokens, signals)
        expected = self._blended(tokens, kept, got.assignment.clamp(min=0))
        return Replay(expected, nearest_regret(-cosine, got.assignment, 1.0))

    def _slots(
        self, case: Case, tokens: torch.Tensor, signals: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions [B, K], and cosine [B, N, K] of every token to the kept ones; a kept one is nearest to itself."""
        kept = select.top_k(self.attended(signals), case.keep).sort(dim=1).values
        x = tokens.float()
        cosine = cosines(x, select.gather(x, kept))
        return kept, cosine.scatter(1, kept[:, None], -select.LOWEST)

    def _blended(self, tokens: torch.Tensor, kept: torch.Tensor, slot: torch.Tensor) -> Compressed[torch.Tensor]:
        """One token after the other, for the slot that each goes to [B, N]."""
        import torch

        x, own = tokens.float(), select.slots_of(kept, tokens.shape[1])
        slot = own.where(own >= 0, slot)
        content, sizes = select.gather(x, kept), torch.ones_like(kept, dtype=torch.float32)
        for batch in range(len(x)):
            for place in (own[batch] < 0).nonzero()[:, 0].tolist():
                into = int(slot[batch, place])
                sizes[batch, into] += 1
                share = 0.5 if self.blend == "halves" else 1 / float(sizes[batch, into])
                content[batch, into] += share * (x[batch, place] - content[batch, into])
        return Compressed(content.to(tokens.dtype), kept, sizes, slot)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """One MatMul for the cosines, one for the blend, with a weight for each token by how many follow it."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        _, best = select.emit_top_k(b, self.emit_attended(b, signals), k, n)
        kept, _ = select.emit_sort(b, best, k)
        index = b.cast(kept, "int64")
        cosine = emit_cosines(b, x, select.emit_gather(b, x, index))
        nearest = b.op("Squeeze", select.emit_argmax(b, cosine, 2, (1, 1, k)), [2])
        own = select.emit_slots(b, kept, n, select.emit_iota(b, 1, k))
        stays = b.op("GreaterOrEqual", own, 0.0)
        members, count = select.emit_members(b, b.op("Where", stays, -1.0, nearest), k)
        itself, _ = select.emit_members(b, own, k)
        if self.blend == "mean":
            weights = b.op("Div", b.op("Add", members, itself), b.op("Add", count, 1.0))
        else:
            # Of a slot's n tokens the r-th, counted from 1, has the weight 2^(r - 1 - n), the kept one 2^-n.
            rank = b.op("CumSum", members, b.const(np.array(2, np.int64)))
            after = b.op("Sub", b.op("Sub", rank, 1.0), count)
            halves = b.op("Mul", members, b.op("Exp", b.op("Mul", after, math.log(2))))
            weights = b.op("Add", halves, b.op("Mul", itself, b.op("Exp", b.op("Mul", count, -math.log(2)))))
        content = select.emit_like(b, b.op("MatMul", weights, x), case)
        assignment = b.cast(b.op("Where", stays, own, nearest), "int64")
        return Compressed(content, index, b.op("Squeeze", b.op("Add", count, 1.0), [2]), assignment)
