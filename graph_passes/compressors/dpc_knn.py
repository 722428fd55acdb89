"""DPC-KNN: dense tokens that are far from denser ones become centres, and every token joins its nearest centre.

Source: Chat-UniVi (arXiv 2311.08046, CVPR 2024), one stage of its clustering, after density peaks clustering with
k nearest neighbours (Du et al. 2016). For tokens X [N, D] and K slots:

    d_ij  = |x_i - x_j| / sqrt(D)
    rho_i = exp(-mean of d_ij^2 over the k nearest j, i itself included)
    del_i = min of d_ij over the tokens j denser than i; for the densest the largest of all distances
    the K tokens of the largest rho_i del_i are the centres, in spatial order
    each token goes to its nearest centre, the lowest slot among equals; a centre to itself
    each slot is the plain mean of its tokens, and its size is their number

It inherits the centre's position. Differs from the released code, which adds noise below 1e-6 to rho. That noise
decides if densities are equal, above all if exp underflows to 0 in float32: nearest tokens that differ by 10 in every
channel. Here tokens are ranked by log(rho del), which does not underflow, and of equally dense tokens the one of the
lower index counts as denser. Centres are in spatial order, there by score. Domain: any K from 1 to N; K = N is the
identity; k is at most N.

The ONNX body, like the released code, computes |x - y|^2 = |x|^2 + |y|^2 - 2 x y, here of tokens minus their mean. Its
rounding is relative to |x|^2, and smaller distances count as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select, squares
from .blocks.means import emit_means, emit_nearest, means
from .blocks.replay import Replay
from .replays.dpc_knn import centres_regret, joined_regret, square_scale

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_FAR = 3.0e38


@compressor(
    "dpc_knn",
    family="similarity",
    modalities=("image", "video", "audio"),
    merges=True,
    source="Chat-UniVi, arXiv 2311.08046",
    summary="centres are dense tokens far from denser ones; every token is averaged into the nearest",
    heavy="all N^2 distances and their order",
)
@dataclass(frozen=True)
class DpcKnn:
    """Parameters of DPC-KNN.

    Attributes:
        neighbours: k, the number of tokens that the density of a token is computed over, itself included.
    """

    neighbours: int = 5

    examples = (Example(Case(13, 5, 4)),)

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise RequestError(
                f"neighbours {self.neighbours} is not positive",
                where="method 'dpc_knn'",
                fix="Use --set neighbours=5, as in the released code.",
            )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """1 <= K <= N, and k <= N."""
        select.check_keep(case)
        if self.neighbours > case.tokens:
            raise RequestError(
                f"neighbours {self.neighbours} is more than the {case.tokens} tokens",
                fix=f"Use --set neighbours=1 to {case.tokens}.",
            )

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above, with distances as sums of squared differences."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        square = square_distances(tokens)
        kept = select.top_k(self.scores(square), case.keep).sort(dim=1).values
        return means(tokens, kept, nearest_centre(square, kept))

    def scores(self, square: torch.Tensor) -> torch.Tensor:
        """log(rho del) [B, N] for squared distances [B, N, N]; lowest if a denser token is equal."""
        import torch

        n = square.shape[1]
        sparseness = square.topk(self.neighbours, dim=2, largest=False).values.mean(2)
        here, other = sparseness[:, :, None], sparseness[:, None]
        earlier = torch.ones(n, n, dtype=torch.bool, device=square.device).tril(-1)
        denser = (other < here) | ((other == here) & earlier)
        farthest = square.amax((1, 2), keepdim=True).expand_as(square)
        delta = torch.where(denser, square, farthest).amin(2)
        return torch.where(delta > 0, delta.log() / 2 - sparseness, select.LOWEST)

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """The relative error of squared distances that would explain these centres and joins."""
        import torch

        if case.keep == case.tokens:
            return Replay(select.every_token(tokens), torch.zeros(len(tokens), dtype=torch.float64))
        square = square_distances(tokens).double()
        scale = square_scale(tokens, square)
        regret = torch.maximum(
            centres_regret(square, scale, got.kept_indices, self.neighbours),
            joined_regret(square, scale, got.kept_indices, got.assignment),
        )
        return Replay(means(tokens, got.kept_indices, got.assignment.clamp(min=0)), regret)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """One MatMul for all distances; a centre is one TopK, a join one ArgMax, the merge one MatMul."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        centred = b.op("Sub", x, b.op("ReduceMean", x, [1], keepdims=1))
        square = squares.emit_square_distances(b, b.op("Mul", centred, float(case.dim**-0.5)))
        _, best = select.emit_top_k(b, self._emit_scores(b, square, n), k, n)
        kept, _ = select.emit_sort(b, best, k)
        closeness = b.op("Neg", select.emit_gather(b, square, b.cast(kept, "int64")))
        return emit_means(b, case, x, kept, emit_nearest(b, closeness, kept, n, k))

    def _emit_scores(self, b: Builder, square: ir.Value, n: int) -> ir.Value:
        """log(rho del) [B, N]."""
        nearest, _ = b.ops("TopK", square, [self.neighbours], n=2, axis=2, largest=0, sorted=1)
        sparseness = b.op("ReduceMean", nearest, [2], keepdims=1)
        other = b.op("Transpose", sparseness, perm=[0, 2, 1])
        equal = b.op("And", b.op("Equal", other, sparseness), b.const(np.tri(n, k=-1, dtype=bool)[None]))
        denser = b.op("Or", b.op("Less", other, sparseness), equal)
        delta = b.op("ReduceMin", b.op("Where", denser, square, _FAR), [2], keepdims=0)
        delta = b.op("Min", delta, b.op("ReduceMax", b.op("ReduceMax", square, [2], keepdims=0), [1], keepdims=1))
        score = b.op("Sub", b.op("Mul", b.op("Log", delta), 0.5), b.op("Squeeze", sparseness, [2]))
        return b.op("Where", b.op("Greater", delta, 0.0), score, select.LOWEST)


def square_distances(tokens: torch.Tensor) -> torch.Tensor:
    """d^2 [B, N, N] float32 of tokens [B, N, D], exactly 0 for equal ones."""
    x = tokens.float()
    return squares.square_distances(x, x) / x.shape[2]


def nearest_centre(square: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The slot [B, N] of the nearest of the centres kept [B, K]; a centre's own."""
    own = select.slots_of(kept, square.shape[1])
    return own.where(own >= 0, select.gather(square, kept).argmin(1))
