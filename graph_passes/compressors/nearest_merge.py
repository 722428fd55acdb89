"""nearest_merge: the picks of a method that selects, and every other token joins the nearest of them.

Source: tokexport. For tokens X [N, D] and K slots:

    C = the K tokens that `picks` keeps, in spatial order
    each token goes to its nearest pick in L2, the lowest slot among equals; a pick to itself
    each slot is the plain mean of its tokens, or its pick unchanged (`rest`), and its size is their number

It inherits the pick's position. Sizes sum to N. What a selection drops is lost with all that it weighs in attention:
here it stays, by log(size). Domain: any K from 1 to N; K = N is the identity.

The ONNX body compares 2 x y - |y|^2 of tokens and picks minus the mean of all tokens, by one MatMul: |x|^2 is the same
for all picks. Its rounding is relative to |x|^2 + |y|^2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.means import emit_means, emit_nearest, means
from .blocks.replay import Replay
from .divprune import Divprune
from .dpc_knn import nearest_centre, square_distances
from .replays.dpc_knn import joined_regret, square_scale
from .uniform import Uniform

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "nearest_merge",
    family="similarity",
    modalities=("image", "video", "audio"),
    merges=True,
    source="tokexport",
    seam="projector_output",
    summary="DivPrune's or evenly spaced picks; every other token joins the nearest of them",
    heavy="all N^2 cosines, and a pick reads a row of them; evenly spaced picks need neither",
)
@dataclass(frozen=True)
class NearestMerge:
    """Parameters of nearest_merge.

    Attributes:
        picks: whose tokens the slots begin with: DivPrune's, or evenly spaced ones, which cost next to nothing.
        rest: ``mean``, tokens are averaged into their pick; ``count``, they only count in its size.
    """

    picks: Literal["divprune", "uniform"] = "divprune"
    rest: Literal["mean", "count"] = "mean"

    examples = (
        Example(Case(13, 5, 4)),
        Example(Case(13, 5, 4), picks="uniform"),
        Example(Case(13, 5, 4), rest="count"),
    )

    @property
    def picker(self) -> Divprune | Uniform:
        """The method that picks."""
        return Divprune() if self.picks == "divprune" else Uniform()

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
        kept = self.picker.reference(case, tokens).kept_indices
        return self._joined(tokens, kept, nearest_centre(square_distances(tokens), kept))

    def _joined(self, tokens: torch.Tensor, kept: torch.Tensor, slot: torch.Tensor) -> Compressed[torch.Tensor]:
        """Slots at kept [B, K] whose tokens are known by slot [B, N]."""
        merged = means(tokens, kept, slot)
        return merged if self.rest == "mean" else replace(merged, tokens=select.gather(tokens, kept))

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """The picks as their own method checks them, and each token's join by the error of a distance."""
        import torch

        if case.keep == case.tokens:
            return Replay(select.every_token(tokens), torch.zeros(len(tokens), dtype=torch.float64))
        kept = got.kept_indices
        if isinstance(self.picker, Divprune):
            picked = self.picker.replay(case, tokens, got).regret
        else:
            own = self.picker.reference(case, tokens).kept_indices
            picked = torch.where((kept == own).all(1), 0.0, torch.inf).double().cpu()
        square = square_distances(tokens).double()
        joins = joined_regret(square, square_scale(tokens, square), kept, got.assignment)
        return Replay(self._joined(tokens, kept, got.assignment.clamp(min=0)), torch.maximum(picked, joins))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """The picks, one MatMul for all distances to its picks, one ArgMax, and one MatMul for the means."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        if isinstance(self.picker, Divprune):
            kept = self.picker.emit_picks(b, case, tokens)
        else:
            kept = select.emit_rows(b, tokens, self.picker.kept(case).astype(np.float32))
        centred = b.op("Sub", x, b.op("ReduceMean", x, [1], keepdims=1))
        picks = select.emit_gather(b, centred, b.cast(kept, "int64"))
        products = b.op("MatMul", b.op("Mul", picks, 2.0), b.op("Transpose", centred, perm=[0, 2, 1]))
        closeness = b.op("Sub", products, select.emit_square_sum(b, picks, keepdims=True))
        slot = emit_nearest(b, closeness, kept, n, k)
        if self.rest == "mean":
            return emit_means(b, case, x, kept, slot)
        _, sizes = select.emit_members(b, slot, k)
        index = b.cast(kept, "int64")
        content = select.emit_gather(b, tokens, index)
        return Compressed(content, index, b.op("Squeeze", sizes, [2]), b.cast(slot, "int64"))
