"""SparseVLM: words that attend to the image rate its tokens; the best are kept, the best of the others are clustered.

Source: SparseVLM (arXiv 2410.04417, ICML 2025) and its code, inside the language model. Fixed-count form before
it, for tokens X [N, D], text rows T [L, D], K slots, C of them clusters:

    w_l     = mean over tokens of softmax over l of x_i . t_l; the raters are the rows with w above the mean
    P_i     = mean over raters of softmax over i of t_l . x_i / sqrt(D)
    kept    = the K - C largest P_i, unchanged
    pool    = of the M = N - K + C others the floor(`recycled` M) + 1 largest P_i
    C clusters of the pool by DPC-KNN over C neighbours (see `dpc_knn`), each slot their mean; all others are lost

C is floor(n / 10) + 1 for a pool of n, as released; `clusters` 0 omits the pool. Approximate: the code computes
P from the attention of layers 2, 6 and 15 and keeps one of its lists of counts at each. Here everything happens once,
with the embeddings as queries and keys. Between the layers of a language model ``scores`` "attention" is that of the
code: P is what the raters, found once where the model begins, pay each token in the layer in front, mean over heads.
Of several images each has its own raters there, among all words behind it, those between further images too.
If all rows have the mean weight, all are raters; the code then has none. Slots are in spatial order, a cluster at its
centre; there clusters come last. Domain: C < K <= N; K = N is the identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from ...lazy import np
from .base import OUTPUTS, Case, Compressed, Example, compressor
from .blocks import select
from .blocks.replay import TIED, Replay, top_k_regret
from .blocks.shares import positions_of
from .blocks.texts import ReadsText, emit_rows_of, rows_of
from .dpc_knn import DpcKnn

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_EVEN = 1e-5  # weights this close below the mean count as the mean: rows of equal weight must not depend on rounding
_ROUNDING = 1e-3  # rounding of a weight, for long tokens and a steep softmax over rows
_TRIES = 64
_ATTENTION = "raters_attention"


def raters_among(tokens: torch.Tensor, rows: torch.Tensor, real: torch.Tensor, even: float = _EVEN) -> torch.Tensor:
    """Which rows of a text [B, L, D] rate tokens [B, N, D]: [B, L] bool.

    Args:
        tokens: float.
        rows: likewise.
        real: [B, L] bool, which rows are not padding.
        even: so much below the mean, relative to it, is still above.
    """
    weight = (tokens @ rows.mT).masked_fill(~real[:, None], select.LOWEST).softmax(2).mean(1)
    # The mean of the weights is 1 / count.
    return real & (weight > (1 - even) / real.sum(1, keepdim=True).clamp(min=1))


@compressor(
    "sparsevlm",
    family="query",
    modalities=("image", "video", "audio"),
    merges=True,
    source="SparseVLM, arXiv 2410.04417",
    seam="projector_output",
    summary="keeps the tokens that image-related words attend to, clusters the best of the others (fixed-count form)",
    approximate=True,
)
@dataclass(frozen=True)
class Sparsevlm(ReadsText):
    """Parameters of SparseVLM.

    Attributes:
        recycled: share of the tokens not kept that goes into clusters.
        clusters: C; by default one for every ten recycled tokens, as in the released code.
        scores: what tokens are rated by: ``embeddings``, products with those of the text; ``attention``, what the
            raters pay them, between the layers of a language model.
    """

    recycled: float = 0.3
    clusters: int | None = None
    scores: Literal["embeddings", "attention"] = "embeddings"

    examples = (
        Example(Case(13, 5, 4)),
        Example(Case(13, 5, 4), clusters=0),
        Example(Case(13, 5, 4), clusters=2, recycled=0.8),
        Example(Case(13, 5, 4), clusters=2, recycled=0.8, scores="attention"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.recycled <= 1:
            raise RequestError(
                f"recycled {self.recycled} is outside 0..1", where="method 'sparsevlm'", fix="Use --set recycled=0.3."
            )
        if self.clusters is not None and self.clusters < 0:
            raise RequestError(
                f"clusters {self.clusters} is negative", where="method 'sparsevlm'", fix="Use 0, or leave it out."
            )

    def check(self, case: Case) -> None:
        """C < K <= N, and at least C recycled tokens."""
        select.check_keep(case)
        _, pool, clusters = self.counts(case)
        if case.keep < case.tokens and not (clusters < case.keep and clusters <= pool):
            raise RequestError(
                f"{clusters} clusters do not fit into {case.keep} slots, one of which a token needs, or exceed "
                f"the {pool} recycled tokens",
                where=f"{case.tokens} tokens of {case.dim} channels",
                fix="Use a larger --keep, or --set clusters=0.",
            )

    def signals(self) -> tuple[str, ...]:
        """``text`` [B, L, D], or ``raters_attention`` [B, N]."""
        return super().signals() if self.scores == "embeddings" else (_ATTENTION,)

    def counts(self, case: Case) -> tuple[int, int, int]:
        """Tokens that are kept, tokens in the pool, and C."""

        def pool(clusters: int) -> int:
            others = case.tokens - case.keep + clusters
            return min(others, int(self.recycled * others) + 1)

        clusters = 1 if self.clusters is None else self.clusters
        while self.clusters is None and pool(clusters) // 10 + 1 != clusters:
            clusters = pool(clusters) // 10 + 1
        return case.keep - clusters, pool(clusters) if clusters else 0, clusters

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        alone, pooled, _ = self.counts(case)
        order = select.top_k(self._scores(tokens, signals, _EVEN)[0], alone + pooled)
        kept, pool = order[:, :alone], order[:, alone:].sort(dim=1).values
        how, inner = self._clustering(case)
        parts = how.reference(inner, select.gather(tokens, pool)) if pooled else None
        return self._assembled(tokens, kept, pool, parts)

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Of one-token slots the best are kept; a row whose weight equals the mean up to rounding may rate or not."""
        import torch

        if case.keep == case.tokens:
            return Replay(select.every_token(tokens), torch.zeros(len(tokens), dtype=torch.float64))
        fields = [getattr(got, name).split(1) for name in OUTPUTS]
        read = [{name: value[i : i + 1] for name, value in signals.items()} for i in range(len(tokens))]
        each = [self._explained(case, *one) for one in zip(tokens.split(1), read, map(Compressed, *fields))]
        expected = (torch.cat([getattr(replay.expected, name) for replay in each]) for name in OUTPUTS)
        return Replay(Compressed(*expected), torch.cat([replay.regret for replay in each]))

    def _explained(
        self, case: Case, tokens: torch.Tensor, signals: Mapping[str, torch.Tensor], got: Compressed[torch.Tensor]
    ) -> Replay:
        """Of one batch element. A result does not show the raters: possible ones are tried until one set fits."""
        ways = []
        for even in (_EVEN, _EVEN - _ROUNDING, _EVEN + _ROUNDING):
            scores, scale = self._scores(tokens, signals, even)
            for single in self._singles(case, got, scores, scale):
                ways.append(self._replayed(case, tokens, got, scores, scale, single))
                if float(ways[-1].regret) <= TIED:
                    return ways[-1]
        return min(ways, key=lambda way: float(way.regret))

    def _singles(
        self, case: Case, got: Compressed[torch.Tensor], scores: torch.Tensor, scale: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        """Which slots [1, K] bool are kept tokens: the best of those of size 1, all variants if some tie."""
        alone = self.counts(case)[0]
        here = scores.gather(1, got.kept_indices).masked_fill(got.sizes != 1, select.LOWEST)
        best = select.slots_of(select.top_k(here, alone), case.keep) >= 0
        yield best
        end = here.masked_fill(~best, -select.LOWEST).amin(1, keepdim=True)
        tied = (here - end).abs() <= 2 * TIED * scale.gather(1, got.kept_indices)
        sure = best & ~tied
        places = tied.nonzero()[:, 1]
        for some in islice(combinations(range(len(places)), alone - int(sure.sum())), _TRIES):
            yield sure.scatter(1, places[None, list(some)], True)

    def _replayed(
        self,
        case: Case,
        tokens: torch.Tensor,
        got: Compressed[torch.Tensor],
        scores: torch.Tensor,
        scale: torch.Tensor,
        single: torch.Tensor,
    ) -> Replay:
        import torch

        _, pooled, clusters = self.counts(case)
        slots = select.slots_of(got.kept_indices, case.tokens)
        kept = (slots >= 0) & single.gather(1, slots.clamp(min=0))
        held = got.assignment >= 0
        inside = held & ~kept
        if (inside.sum(1) != pooled).any():
            return Replay(got, torch.full((len(tokens),), torch.inf, dtype=torch.float64))
        regret = torch.maximum(top_k_regret(scores, kept, scale), top_k_regret(scores, held, scale))
        pool = positions_of(inside)
        if not clusters:
            return Replay(self._assembled(tokens, positions_of(kept), pool, None), regret)
        how, inner = self._clustering(case)
        rank = (~single).cumsum(1) - 1
        joined = rank.gather(1, got.assignment.gather(1, pool))
        centres = positions_of((slots >= 0).gather(1, pool))
        rows = select.gather(tokens, pool)
        parts = how.replay(inner, rows, Compressed(rows[:, :clusters], centres, got.sizes[:, :clusters], joined))
        expected = self._assembled(tokens, positions_of(kept), pool, parts.expected)
        return Replay(expected, torch.maximum(regret, parts.regret))

    def _clustering(self, case: Case) -> tuple[DpcKnn, Case]:
        """DPC-KNN of the pool, and its case."""
        _, pooled, clusters = self.counts(case)
        return DpcKnn(max(1, clusters)), replace(case, tokens=pooled, keep=clusters, grid=None)

    def _scores(
        self, tokens: torch.Tensor, signals: Mapping[str, torch.Tensor], even: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """P [B, N], and what its rounding is relative to; attention is a signal, and is not rounded here."""
        if self.scores == "attention":
            paid = signals[_ATTENTION].float()
            return paid, paid.abs()
        x, (rows, real) = tokens.float(), rows_of(signals["text"])
        raters = raters_among(x, rows, real, even)
        root = x.shape[2] ** -0.5
        rated = (rows @ x.mT * root).softmax(2) * raters[..., None]
        steep = rows.norm(dim=2).amax(1, keepdim=True) * x.norm(dim=2).amax(1, keepdim=True) * root
        scores = rated.sum(1) / raters.sum(1, keepdim=True).clamp(min=1)
        return scores, scores * (1 + steep) + 1e-30

    def _assembled(
        self, tokens: torch.Tensor, kept: torch.Tensor, pool: torch.Tensor, parts: Compressed[torch.Tensor] | None
    ) -> Compressed[torch.Tensor]:
        """Kept tokens [B, K - C] and clusters of the pool [B, n], in spatial order."""
        import torch

        if parts is None:
            return select.selection(tokens, kept.sort(dim=1).values)
        centres = pool.gather(1, parts.kept_indices)
        index, order = torch.cat([kept, centres], 1).sort(dim=1)
        content = torch.cat([select.gather(tokens, kept), parts.tokens], 1)
        sizes = torch.cat([parts.sizes.new_ones(kept.shape), parts.sizes], 1)
        slots = select.slots_of(index, tokens.shape[1])
        joined = slots.gather(1, centres).gather(1, parts.assignment)
        lost = torch.full_like(slots, -1)
        assignment = lost.scatter(1, kept, slots.gather(1, kept)).scatter(1, pool, joined)
        return Compressed(select.gather(content, order), index, sizes.gather(1, order), assignment)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """One TopK for kept and pool, the body of `dpc_knn` over the pool, one sort of both."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        alone, pooled, clusters = self.counts(case)
        _, order = select.emit_top_k(b, self._emit_scores(b, case, tokens, signals), alone + pooled, n)
        if not clusters:
            return select.emit_selection(b, case, tokens, select.emit_sort(b, order, k)[0])
        best, rest = b.op("Slice", order, [0], [alone], [1]), b.op("Slice", order, [alone], [alone + pooled], [1])
        pool, _ = select.emit_sort(b, rest, pooled)
        how, inner = self._clustering(case)
        parts = how.onnx(b, inner, select.emit_gather(b, tokens, b.cast(pool, "int64")))

        kept = b.cast(best, "float32")
        place = b.op("Concat", kept, b.op("GatherElements", pool, parts.kept_indices, axis=1), axis=1)
        slot = select.emit_rank(b, place, k, largest=False)
        index, order = select.emit_top_k(b, place, k, k, largest=False)
        content = b.op("Concat", select.emit_gather(b, tokens, best), parts.tokens, axis=1)
        sizes = b.op("Concat", select.emit_rows(b, tokens, np.ones(alone, np.float32)), parts.sizes, axis=1)
        joined = b.op("GatherElements", b.op("Slice", slot, [alone], [k], [1]), parts.assignment, axis=1)
        own = select.emit_slots(b, kept, n, b.op("Slice", slot, [0], [alone], [1]))
        return Compressed(
            select.emit_gather(b, content, order),
            b.cast(index, "int64"),
            b.op("GatherElements", sizes, order, axis=1),
            b.cast(b.op("Max", own, select.emit_slots(b, pool, n, joined)), "int64"),
        )

    def _emit_scores(self, b: Builder, case: Case, tokens: ir.Value, signals: Mapping[str, ir.Value]) -> ir.Value:
        """P [B, N]."""
        if self.scores == "attention":
            return b.cast(signals[_ATTENTION], "float32")
        x = select.emit_float(b, tokens, case)
        rows, real, count = emit_rows_of(b, signals["text"])
        product = b.op("MatMul", rows, b.op("Transpose", x, perm=[0, 2, 1]))
        weight = b.op("Softmax", b.op("Where", real, product, select.LOWEST), axis=1)
        weight = b.op("ReduceMean", weight, [2], keepdims=1)
        raters = b.op("And", real, b.op("Greater", weight, b.op("Div", 1 - _EVEN, count)))
        rated = b.op("Softmax", b.op("Mul", product, float(case.dim**-0.5)), axis=2)
        number = b.op("Max", b.op("ReduceSum", b.cast(raters, "float32"), [1], keepdims=0), 1.0)
        return b.op("Div", b.op("ReduceSum", b.op("Where", raters, rated, 0.0), [1], keepdims=0), number)
