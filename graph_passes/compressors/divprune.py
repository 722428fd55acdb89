"""DivPrune: the subset whose two most similar tokens are as different as possible, greedily.

Source: DivPrune (arXiv 2503.02175, CVPR 2025), as the released code behaves, after the projector. For tokens
X [N, D] and K slots, with d_ij = 1 - cosine(x_i, x_j):

    first   argmax_j min_{i != j} d_ij: the token farthest from its nearest neighbour
    then    argmax_j min_{i picked} d_ij, K - 1 times
    the picked tokens unchanged, in spatial order; all others are lost

A token is never picked twice: if fewer than K tokens differ, the released code repeats one, and this one continues with
the lowest index. Distances are float32; the released code computes them in the model's precision. Domain: any K from 1
to N; K = N is the identity.

The ONNX body is unrolled: three nodes per pick, 423 at K = 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.cosine import cosines, emit_cosines
from .blocks.greedy import Rule, emit_greedy, greedy, greedy_regret
from .blocks.replay import Replay

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

# On the diagonal: farther than any, for the first pick; nearer than any, to mark picked tokens.
_FAR, _TAKEN = 4.0, -4.0


@compressor(
    "divprune",
    family="similarity",
    modalities=("image", "video", "audio"),
    merges=False,
    source="DivPrune, arXiv 2503.02175",
    seam="projector_output",
    summary="keeps the tokens that are farthest from each other by cosine",
    plugin=True,
    heavy="all N^2 cosines, and a pick reads a row of them",
)
@dataclass(frozen=True)
class Divprune:
    """DivPrune has no parameters."""

    examples = (Example(Case(13, 5, 4)),)

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        kept = greedy(self._rule(tokens), case.keep)
        return select.selection(tokens, kept.sort(dim=1).values)

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """Each pick must be as good as the best; a cosine is rounded relative to 1."""
        regret = greedy_regret((self._rule(one) for one in tokens.split(1)), got.kept_indices)
        return Replay(select.selection(tokens, got.kept_indices), regret)

    def _rule(self, tokens: torch.Tensor) -> Rule[torch.Tensor]:
        """The state is the distance [B, N] to the nearest picked token."""
        import torch

        distance = 1 - cosines(tokens.float())
        row = torch.arange(len(distance), device=distance.device)
        itself = torch.eye(distance.shape[1], dtype=torch.bool, device=distance.device)
        first = distance.masked_fill(itself, _FAR).amin(2)

        def update(nearest: torch.Tensor, pick: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            nearest = torch.minimum(nearest, distance[row, pick])
            return nearest, nearest

        return Rule(first, torch.full_like(first, torch.inf), update, torch.ones_like(first))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """One MatMul for all distances, then a row of it for each pick."""
        if case.keep == case.tokens:
            return select.emit_every_token(b, case, tokens)
        return select.emit_selection(b, case, tokens, self.emit_picks(b, case, tokens))

    def emit_picks(self, b: Builder, case: Case, tokens: ir.Value) -> ir.Value:
        """Positions [B, K] float32 of the picks, ascending."""
        n, k = case.tokens, case.keep
        distance = b.op("Sub", 1.0, emit_cosines(b, select.emit_float(b, tokens, case)))
        itself = b.const(np.eye(n, dtype=bool)[None])
        first = b.op("ReduceMin", b.op("Where", itself, _FAR, distance), [2], keepdims=0)
        rows = b.op("Where", itself, _TAKEN, distance)
        nearest: ir.Value | None = None

        def update(pick: ir.Value) -> ir.Value:
            nonlocal nearest
            row = b.op("GatherND", rows, pick, batch_dims=1)
            nearest = b.op("Min", nearest, row) if nearest is not None else row
            return nearest

        return select.emit_sort(b, emit_greedy(b, first, update, n, k), k)[0]
