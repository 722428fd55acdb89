"""PruMerge: keep the tokens with the highest CLS attention, add their neighbours to them, and fuse all others into one.

Source: LLaVA-PruMerge (arXiv 2403.15388, ICCV 2025) and its code, on CLIP before the projector. For tokens X [N, D],
keys Y [N, Dk], attention a [N], K slots, M = 32 neighbours:

    kept = the K - 1 largest a_i
    with `plus`: U = floor((K - 1) / 2) evenly spaced positions, floor((2 i + 1) N / (2 U)), and the largest of the
    others each kept x_i becomes x_i + sum of a_j x_j over the M tokens j != i of the largest cosine(y_i, y_j) one more
    slot: the sum of a_j x_j over all tokens that are not kept

Fixed-count form: in the released code the kept share follows from outliers of a; its other branch has a fixed share of
1/8, which `plus` doubles, as here. It computes a from queries and keys of all heads as one head, here a is the mean
over heads. Its slots are in descending attention with the fused one last, here in spatial order, and the fused slot
inherits the position of the token next in rank. With `plus`, a position that is also among the largest appears twice
there and displaces another token from the sums; here no token is kept twice, and the next in attention is kept instead.

Every slot has size 1, as for the paper's language model (see `remainder`): neighbours add little to a kept token, and
no token belongs to one slot alone. Domain: 2 <= K < N, M < N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.cosine import cosines, emit_cosines
from .blocks.remainder import Fuses, emit_seats, seats
from .blocks.replay import Replay

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_SAME = 2e-6  # cosines closer than this may swap by rounding


@compressor(
    "prumerge",
    family="attention",
    modalities=("image",),
    merges=True,
    source="LLaVA-PruMerge, arXiv 2403.15388",
    summary="keeps tokens by attention, adds their neighbours by keys, fuses all others into one; fixed-count form",
    approximate=True,
)
@dataclass(frozen=True)
class Prumerge(Fuses):
    """Parameters of PruMerge.

    Attributes:
        plus: PruMerge+, half of the kept tokens evenly spaced.
        neighbours: M, how many tokens are added to a kept one.
    """

    plus: bool = False
    neighbours: int = 32

    examples = (
        Example(Case(13, 5, 4), neighbours=5, plus=False),
        Example(Case(13, 5, 4), neighbours=5, plus=True),
    )

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise RequestError(
                f"neighbours {self.neighbours} is below 1",
                where="method 'prumerge'",
                fix="Use --set neighbours=32, as in the paper; `evit` is the same without neighbours.",
            )

    def signals(self) -> tuple[str, ...]:
        """The attention [B, N], and ``keys`` [B, N, Dk]."""
        return (*super().signals(), "keys")

    def check(self, case: Case) -> None:
        """2 <= K < N, M < N."""
        super().check(case)
        if self.neighbours >= case.tokens:
            raise RequestError(
                f"a token has fewer than {self.neighbours} neighbours",
                where=f"{case.tokens} tokens of {case.dim} channels",
                fix=f"Use --set neighbours={case.tokens - 1} or fewer.",
            )

    def _places(self, case: Case) -> np.ndarray:
        """Positions [U] that are kept regardless of attention."""
        count = (case.keep - 1) // 2 if self.plus else 0
        return (2 * np.arange(count) + 1) * case.tokens // max(2 * count, 1)

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        kept, seat = self._seats(case, **signals)
        cosine = self._cosines(kept, **signals)
        near = select.top_k(cosine.flatten(0, 1), self.neighbours).unflatten(0, kept.shape)
        chosen = cosine.new_zeros(cosine.shape).scatter(2, near, 1.0)
        return self._assemble(tokens, kept, seat, chosen, **signals)

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Attention is exact. The result does not show neighbours: of those tied at rank M the best-fitting count."""
        import torch

        kept, seat = self._seats(case, **signals)
        cosine = self._cosines(kept, **signals)
        cut = cosine.sort(dim=2, descending=True).values[..., self.neighbours - 1 : self.neighbours]
        chosen, tied = (cosine > cut + _SAME).float(), (cosine - cut).abs() <= _SAME
        added = self.attended(signals)[..., None] * tokens.float()
        for b, slot in (tied.sum(2) + chosen.sum(2) > self.neighbours).nonzero().tolist():
            free = tied[b, slot].nonzero()[:, 0]
            missing = got.tokens[b, slot].float() - tokens[b, kept[b, slot]].float() - chosen[b, slot] @ added[b]
            for _ in range(self.neighbours - int(chosen[b, slot].sum())):
                best = int((missing - added[b, free]).norm(dim=1).argmin())
                missing = missing - added[b, free[best]]
                chosen[b, slot, free[best]], tied[b, slot] = 1, False
                free = torch.cat([free[:best], free[best + 1 :]])
        chosen = chosen + tied
        return Replay(self._assemble(tokens, kept, seat, chosen, **signals), torch.zeros(len(tokens)).double())

    def _seats(self, case: Case, **signals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.attended(signals).clone()
        scores[:, self._places(case)] = -select.LOWEST
        return seats(scores, case.keep)

    def _cosines(self, kept: torch.Tensor, **signals: torch.Tensor) -> torch.Tensor:
        """[B, K, N] of the keys of each kept token to all keys, lowest to itself."""
        keys = signals["keys"].float()
        return cosines(select.gather(keys, kept), keys).scatter(2, kept[..., None], select.LOWEST)

    def _assemble(
        self,
        tokens: torch.Tensor,
        kept: torch.Tensor,
        seat: torch.Tensor,
        chosen: torch.Tensor,
        **signals: torch.Tensor,
    ) -> Compressed[torch.Tensor]:
        """The slots, given the neighbours `chosen` [B, K, N] of each, 1 or 0."""
        x, attention = tokens.float(), self.attended(signals)
        return self.fuse(tokens, select.gather(x, kept) + chosen * attention[:, None] @ x, attention, kept, seat)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """One MatMul for the cosines, one for the sums over neighbours, one for the fused slot."""
        n, k = case.tokens, case.keep
        x, attention = select.emit_float(b, tokens, case), self.emit_attended(b, signals)
        keys = b.cast(signals["keys"], "float32")
        scores = attention
        places = self._places(case)
        if len(places):
            scores = b.op("Where", b.const(np.isin(np.arange(n), places)[None]), -select.LOWEST, attention)
        kept, seat = emit_seats(b, scores, k, n)
        index = b.cast(kept, "int64")
        cosine = emit_cosines(b, select.emit_gather(b, keys, index), keys)
        itself = b.op("Equal", b.op("Unsqueeze", kept, [2]), select.emit_iota(b, 1, 1, n))
        near = _emit_largest(b, b.op("Where", itself, select.LOWEST, cosine), self.neighbours)
        weights = b.op("Where", near, b.op("Unsqueeze", attention, [1]), 0.0)
        content = b.op("Add", select.emit_gather(b, x, index), b.op("MatMul", weights, x))
        return self.emit_fuse(b, case, x, content, attention, kept, seat)


def _emit_largest(b: Builder, scores: ir.Value, k: int) -> ir.Value:
    """Which are the k largest of each row of scores [B, R, N] float32, the lowest index first among equals: bool.

    The k-th value does not depend on TopK's order of equals; how many of the values equal to it are included is
    counted.
    """
    values, _ = b.ops("TopK", scores, [k], n=2, axis=-1, largest=1, sorted=1)
    cut = b.op("Slice", values, [k - 1], [k], [2])
    above, level = b.op("Greater", scores, cut), b.op("Equal", scores, cut)
    room = b.op("Sub", float(k), b.op("ReduceSum", b.cast(above, "float32"), [2], keepdims=1))
    turn = b.op("CumSum", b.cast(level, "float32"), b.const(np.array(2, np.int64)))
    return b.op("Or", above, b.op("And", level, b.op("LessOrEqual", turn, room)))
