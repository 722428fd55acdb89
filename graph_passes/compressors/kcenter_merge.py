"""kcenter_merge: K farthest points, and every token merged into its nearest.

Source: tokexport. For tokens X [N, D] and K slots:

    C = K farthest points of X (L2, raw features), in spatial order
    each token goes to its nearest centre in L2, the lowest slot among equals; a centre to itself, even if
    another centre equals it
    each slot is the plain mean of its tokens, and its size is their number

It inherits the centre's position. Sizes sum to N: with size-aware attention (log of the size added to the logits) the
merge is exact if the merged tokens were equal. Domain: any K from 1 to N; K = N is the identity.

The ONNX body is unrolled: ten nodes per centre, 1,330 at K = 128. A Loop of constant trip count takes the same time in
ONNX Runtime with a tenth of the nodes, but prevents CUDA graphs and fusion in TensorRT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.farthest import Start, emit_farthest, farthest_points, start_scores
from .blocks.means import emit_means, emit_nearest, means
from .blocks.replay import Replay, nearest_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "kcenter_merge",
    family="similarity",
    modalities=("image", "video", "audio"),
    merges=True,
    source="tokexport",
    summary="K farthest points; every token is averaged into the nearest of them",
    plugin=True,
    heavy="each pick computes all distances; one MatMul would lose small ones, and a Loop prevents CUDA graphs",
)
@dataclass(frozen=True)
class KcenterMerge:
    """Parameters of kcenter_merge.

    Attributes:
        start: the token at which farthest-point sampling starts.
    """

    start: Start = "first"

    examples = (
        Example(Case(13, 5, 4)),
        Example(Case(13, 5, 4), start="max_norm"),
    )

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
        x = tokens.float()
        kept = farthest_points(x, case.keep, self.start).sort(dim=1).values
        return means(tokens, kept, self._distances(x, kept).argmin(2))

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """Pick farthest points again among the kept tokens only: each must be as far as the farthest of all tokens."""
        import torch

        regret = torch.zeros(len(tokens), dtype=torch.float64)
        if case.keep == case.tokens:
            return Replay(select.every_token(tokens), regret)
        x = tokens.float()
        kept = select.slots_of(got.kept_indices, case.tokens) >= 0
        scores, scale = start_scores(x, self.start), x.norm(dim=2).amax(1)
        row = torch.arange(len(x), device=x.device)
        nearest = torch.full_like(scores, torch.inf)
        for step in range(case.keep):
            pick = scores.masked_fill(~kept, -torch.inf).argmax(1)
            best = scores.amax(1)
            lack = best - scores[row, pick]
            lack = torch.where(lack > 0, lack / (best if step else scale), 0).double().cpu()
            regret = torch.maximum(regret, lack)
            nearest = torch.minimum(nearest, (x - x[row, pick][:, None]).square().sum(2))
            nearest[row, pick] = -1
            scores = nearest
        regret = torch.maximum(regret, nearest_regret(self._distances(x, got.kept_indices), got.assignment))
        return Replay(means(tokens, got.kept_indices, got.assignment.clamp(min=0)), regret)

    def _distances(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Squared L2 [B, N, K] to each centre, one by one; a centre is nearest to itself."""
        import torch

        centres = select.gather(x, kept)
        distances = torch.stack([(x - centre[:, None]).square().sum(2) for centre in centres.unbind(1)], 2)
        return distances.scatter(1, kept[:, None], -torch.inf)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """The distances that pick the centres also determine the nearest one; the merge is one MatMul."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        picks, _, distances = emit_farthest(b, x, n, k, self.start, last_distance=True)
        kept, order = select.emit_sort(b, b.cast(picks, "int64"), k)
        by_pick = b.op("Transpose", b.op("Concat", *distances, axis=2), perm=[0, 2, 1])
        farness = b.op("Neg", select.emit_gather(b, by_pick, order))
        return emit_means(b, case, x, kept, emit_nearest(b, farness, kept, n, k))
