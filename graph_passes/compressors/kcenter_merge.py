"""kcenter_merge: K farthest points, and every token merged into its nearest.

Source: tokexport. For tokens X [N, D] and K slots:

    C = K farthest points of X (L2, raw features), in spatial order
    each token goes to its nearest centre in L2, the lowest slot among equals; a centre to itself, even if
    another centre equals it
    each slot is the plain mean of its tokens, and its size is their number

It inherits the centre's position. Sizes sum to N: with size-aware attention (log of the size added to the logits) the
merge is exact if the merged tokens were equal. Domain: any K from 1 to N; K = N is the identity.

The ONNX body computes |x - y|^2 = |x|^2 + |y|^2 - 2 x y of all pairs by one MatMul, of tokens minus a central one.
Near-duplicates that differ by no more than rounding relative to |x|^2 count as equal. A pick is three nodes: the
largest distance, its row, and the lesser of two. A Loop of constant trip count would be few nodes, but prevents CUDA
graphs and fusion in TensorRT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.farthest import Start, emit_picks, emit_start, farthest_points, start_scores
from .blocks.means import emit_means_around, means
from .blocks.replay import Replay
from .blocks.squares import emit_distances_between, emit_near_zero, squares_to
from .replays.two_scale import groups_regret

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
    heavy="all N^2 distances, and each pick in turn reads a row of them",
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
        """The picks in an order that explains the slots, each checked by its distance, as each token's join."""
        import torch

        if case.keep == case.tokens:
            return Replay(select.every_token(tokens), torch.zeros(len(tokens), dtype=torch.float64))
        x, kept = tokens.float(), got.kept_indices
        scores = start_scores(x, self.start)
        best, place = scores.gather(1, kept).max(1)
        # A norm may be as large as another up to rounding; the first token is the first or it is not.
        lack = (scores.amax(1) - best) * (torch.inf if self.start == "first" else 1 / x.norm(dim=2).amax(1))
        late = lack.nan_to_num(0, posinf=torch.inf).double().cpu()
        first = kept.gather(1, place[:, None])[:, 0].tolist()
        regret = groups_regret(tokens, (case.keep, [], None), kept, got.assignment, first)
        return Replay(means(tokens, kept, got.assignment.clamp(min=0)), torch.maximum(regret, late))

    def _distances(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Squared L2 [B, N, K] to each centre, one by one; a centre is nearest to itself."""
        import torch

        distances, room = x.new_empty(*x.shape[:2], kept.shape[1]), torch.empty_like(x)
        for slot, centre in enumerate(select.gather(x, kept).unbind(1)):
            distances[..., slot] = squares_to(x, centre, room)
        return distances.scatter(1, kept[:, None], -torch.inf)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """The distances that pick the centres also determine the nearest one; one MatMul adds what is not kept."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        square = emit_distances_between(b, emit_near_zero(b, x, n), n)
        picks = emit_picks(b, square, b.cast(emit_start(b, x, n, self.start), "int64"), n, k)
        kept, _ = select.emit_sort(b, picks, k)
        closeness = b.op("Neg", select.emit_gather(b, square, b.cast(kept, "int64")))
        slot = b.op("Squeeze", select.emit_argmax(b, closeness, 1, (1, k, 1)), [1])
        # Only a kept token is closer to a centre than 0: to itself.
        _, rest = select.emit_top_k(b, b.op("ReduceMax", closeness, [1], keepdims=0), n - k, n, largest=False)
        return emit_means_around(b, case, x, kept, slot, rest)
