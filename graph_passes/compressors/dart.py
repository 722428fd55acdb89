"""DART: a few pivots, and the tokens least similar to them.

Source: DART (arXiv 2502.11494, EMNLP 2025), which prunes inside the language model by 4 image and 4 text
pivots; here at a seam of the encoder, by image pivots alone. For tokens X [N, D], keys [N, Dk], P pivots and
K slots:

    pivots  the P tokens of the largest L1 norm of their key
    in spatial order, each pivot keeps the q least similar of the tokens not yet kept, by cosine of the tokens
    the kept tokens unchanged, in spatial order; all others are lost

K - P tokens are divided among the pivots: q = floor((K - P) / P), and one more for each of the first (K - P) mod P.
The released code rounds down and so keeps fewer, visits pivots in the order of a hash set, and computes cosines of
states after the language model's last norm. `norm_of` "tokens" uses the L1 norm of the tokens, for models without keys.
Domain: any K from P to N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.cosine import cosines, emit_cosines
from .blocks.replay import Replay, top_k_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "dart",
    family="similarity",
    modalities=("image", "video", "audio"),
    merges=False,
    source="DART, arXiv 2502.11494",
    summary="keeps a few pivots of large norm and the tokens least similar to them",
    approximate=True,
    plugin=True,
)
@dataclass(frozen=True)
class Dart:
    """Parameters of DART.

    Attributes:
        pivots: P, how many tokens the others are compared with.
        norm_of: whose L1 norm selects the pivots: keys of the last attention, or tokens.
    """

    pivots: int = 4
    norm_of: Literal["keys", "tokens"] = "keys"

    examples = (
        Example(Case(13, 5, 7), pivots=2, norm_of="keys"),
        Example(Case(13, 5, 7), pivots=2, norm_of="tokens"),
    )

    def __post_init__(self) -> None:
        if self.pivots < 1:
            raise RequestError(
                f"pivots {self.pivots} is not positive",
                where="method 'dart'",
                fix="Use --set pivots=4, as in the paper.",
            )

    def signals(self) -> tuple[str, ...]:
        """``keys`` [B, N, Dk] if their norm selects the pivots."""
        return ("keys",) if self.norm_of == "keys" else ()

    def check(self, case: Case) -> None:
        """P <= K <= N."""
        select.check_keep(case, self.pivots, f"each of {self.pivots} pivots is kept")

    def shares(self, case: Case) -> list[int]:
        """How many tokens each pivot keeps besides itself."""
        each, more = divmod(case.keep - self.pivots, self.pivots)
        return [each + (i < more) for i in range(self.pivots)]

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The rule above."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        pivots = select.top_k(self.norms(tokens, **signals), self.pivots).sort(dim=1).values
        cosine = self._to_pivots(tokens, pivots)
        kept = select.slots_of(pivots, case.tokens) >= 0
        for row, share in zip(cosine.unbind(1), self.shares(case)):
            least = select.top_k((-row).masked_fill(kept, -float("inf")), share)
            kept = kept.scatter(1, least, True)
        return select.selection(tokens, kept.nonzero()[:, 1].view(len(kept), -1))

    def norms(self, tokens: torch.Tensor, **signals: torch.Tensor) -> torch.Tensor:
        """L1 norms [B, N] float32."""
        return signals.get("keys", tokens).float().norm(p=1, dim=2)

    def _to_pivots(self, tokens: torch.Tensor, pivots: torch.Tensor) -> torch.Tensor:
        """Cosines [B, P, N]."""
        x = tokens.float()
        return cosines(select.gather(x, pivots), x)

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """The same among the kept tokens only: no lost token may be a better pivot, or less similar to one."""
        import torch

        result = select.selection(tokens, got.kept_indices)
        norms, allowed = self.norms(tokens, **signals), select.slots_of(got.kept_indices, case.tokens) >= 0
        pivots = select.top_k(norms.masked_fill(~allowed, -torch.inf), self.pivots).sort(dim=1).values
        taken = select.slots_of(pivots, case.tokens) >= 0
        regret = top_k_regret(norms, taken, norms)
        for row, share in zip(self._to_pivots(tokens, pivots).unbind(1), self.shares(case)):
            if not share:
                continue
            least = select.top_k((-row).masked_fill(taken | ~allowed, -torch.inf), share)
            row = row.masked_fill(taken, torch.inf)
            chosen = torch.zeros_like(taken).scatter(1, least, True)
            regret = torch.maximum(regret, top_k_regret(-row, chosen, torch.ones_like(row)))
            taken = taken | chosen
        return Replay(result, regret)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """One TopK for the pivots, one MatMul, and a TopK for each pivot."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        metric = select.emit_float(b, signals["keys"], case) if self.norm_of == "keys" else x
        norms = b.op("ReduceSum", b.op("Abs", metric), [2], keepdims=0)
        _, best = select.emit_top_k(b, norms, self.pivots, n)
        pivots, _ = select.emit_sort(b, best, self.pivots)
        unlike = b.op("Neg", emit_cosines(b, select.emit_gather(b, x, b.cast(pivots, "int64")), x))
        picks, taken = [pivots], self._emit_taken(b, pivots, n, self.pivots)
        for pivot, share in enumerate(self.shares(case)):
            if not share:
                break
            row = b.op("Squeeze", b.op("Slice", unlike, [pivot], [pivot + 1], [1]), [1])
            _, least = select.emit_top_k(b, b.op("Where", taken, select.LOWEST, row), share, n)
            picks.append(b.cast(least, "float32"))
            taken = b.op("Or", taken, self._emit_taken(b, picks[-1], n, share))
        kept, _ = select.emit_sort(b, b.cast(b.op("Concat", *picks, axis=1), "int64"), k)
        return select.emit_selection(b, case, tokens, kept)

    def _emit_taken(self, b: Builder, positions: ir.Value, n: int, count: int) -> ir.Value:
        """Whether each of n tokens is among positions [B, count] float32: [B, n] bool."""
        slots = select.emit_slots(b, positions, n, select.emit_iota(b, 1, count))
        return b.op("GreaterOrEqual", slots, 0.0)
