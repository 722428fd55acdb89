"""The fused remainder: one of the K slots holds all tokens that were not kept.

For K - 1 kept tokens and attention a [N], EViT and PruMerge fill the last slot with the sum of a_j x_j over all others.
Attention sums to 1 over a row of the softmax, so the sum is short if little attention is left: these methods
treat it as an ordinary token, not as a mean, so its size is 1 and the others count as lost. (Measured on tiny-vlm, 21
of 144 kept: with log(N - K + 1) in the attention PruMerge+ falls from .775 to .178.) ``rest`` "mean" is the plain mean
instead, whose size is N - K + 1. The slot inherits the position of the token next in rank, and so all slots are in
spatial order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ....errors import RequestError
from ....lazy import np
from ..base import Case, Compressed
from . import select
from .attended import Attends

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


@dataclass(frozen=True)
class Fuses(Attends):
    """The parameters of a method with a fused remainder.

    Attributes:
        rest: ``sum``, the attention-weighted sum of the tokens not kept, of size 1; ``mean``, their mean, of their
            number.
    """

    rest: Literal["sum", "mean"] = "sum"

    def check(self, case: Case) -> None:
        """2 <= K < N: at least one token is kept, and at least two are fused."""
        if not 2 <= case.keep < case.tokens:
            raise RequestError(
                f"keep {case.keep} is outside 2..{case.tokens - 1}: one slot is for all tokens that are not kept",
                where=f"{case.tokens} tokens of {case.dim} channels",
                fix=f"Use --keep 2 to {case.tokens - 1}." if case.tokens > 2 else "",
            )

    def fuse(
        self,
        tokens: torch.Tensor,
        content: torch.Tensor,
        attention: torch.Tensor,
        kept: torch.Tensor,
        seat: torch.Tensor,
    ) -> Compressed[torch.Tensor]:
        """Write the remainder to the slot that `seat` [B, K] marks; the others have `content` [B, K, D] float32."""
        slots = select.slots_of(kept, attention.shape[1])
        last = seat.int().argmax(1, keepdim=True)
        lost = (slots < 0) | (slots == last)
        sizes = lost.sum(1, keepdim=True).float()
        weights = attention * lost if self.rest == "sum" else lost / sizes
        mixed = (weights[:, None] @ tokens.float()).where(seat[..., None], content).to(tokens.dtype)
        if self.rest == "sum":
            return Compressed(mixed, kept, sizes.new_ones(kept.shape), slots)
        return Compressed(mixed, kept, sizes.where(seat, 1), last.where(lost, slots))

    def emit_fuse(
        self,
        b: Builder,
        case: Case,
        x: ir.Value,
        content: ir.Value,
        attention: ir.Value,
        kept: ir.Value,
        seat: ir.Value,
    ) -> Compressed[ir.Value]:
        """As `fuse`, for x [B, N, D] and content [B, K, D] float32."""
        n, k = case.tokens, case.keep
        size, iota = float(n - k + 1), select.emit_iota(b, 1, k)
        # The slot holds the tokens not kept and the one whose position it has.
        last = b.op("ReduceMax", b.op("Where", seat, iota, -1.0), [1], keepdims=1)
        own = select.emit_slots(b, kept, n, iota)
        lost = b.op("Or", b.op("Less", own, 0.0), b.op("Equal", own, last))
        weights = b.op("Where", lost, attention if self.rest == "sum" else 1 / size, 0.0)
        fused = b.op("MatMul", b.op("Unsqueeze", weights, [1]), x)
        mixed = select.emit_like(b, b.op("Where", b.op("Unsqueeze", seat, [2]), fused, content), case)
        index = b.cast(kept, "int64")
        if self.rest == "sum":
            return Compressed(mixed, index, select.emit_rows(b, x, np.ones(k, np.float32)), b.cast(own, "int64"))
        slots = b.cast(b.op("Where", lost, last, own), "int64")
        return Compressed(mixed, index, b.op("Where", seat, size, 1.0), slots)


def seats(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [B, k] of the k highest scores [B, N], ascending, and which of them is the last in rank [B, k] bool."""
    kept, rank = select.top_k(scores, k).sort(dim=1)
    return kept, rank == k - 1


def emit_seats(b: Builder, scores: ir.Value, k: int, n: int) -> tuple[ir.Value, ir.Value]:
    """As `seats`: positions [B, k] float32 and which is the last in rank [B, k] bool, for scores [B, n] float32."""
    _, best = select.emit_top_k(b, scores, k, n)
    kept, rank = select.emit_sort(b, best, k)
    return kept, b.op("Equal", rank, k - 1)
