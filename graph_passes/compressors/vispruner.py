"""VisPruner: keep the tokens with the highest CLS attention, and of the others the least redundant.

Source: VisPruner (arXiv 2412.01818 v2, ICCV 2025) and its code, on CLIP before the projector. For tokens X [N, D],
attention a [N], K slots, r = .5:

    important = the T = floor(r K) largest a_i
    list      = the N - T others, by descending a
    until K - T are left: split the list into A (entries 0, 2, ..) and B (entries 1, 3, ..); drop from A the
        min(8, the excess, |A|) tokens of the largest max over B of cosine; the list is now [A, B]
    important and list unchanged, in spatial order; all others are lost

The released code leaves A in order of that similarity after a round, where one rounding changes every later round. Here
A keeps its order, and similarities are rounded to 1/4096, so that copies of a token tie and the first in the list is
dropped: approximate. The released code also fails if N - T is odd; here A then has one more than B. Domain: any K from
1 to N; K = N is the identity.

The ONNX body is unrolled: 16 nodes and their constants per round, (N - K) / 8 rounds: 1,086 at N = 576, K = 128; a
larger ``drop`` needs fewer.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import Attends, emit_keep_highest, keep_highest
from .blocks.cosine import cosines, emit_cosines
from .blocks.replay import Replay

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_ROUNDING = 0.01  # share of a step by which a similarity may differ between implementations
_PATIENCE = 2000  # rounds that a replay may try
_FLIPS = 8  # similarities per round that it rounds both ways, one by one


@compressor(
    "vispruner",
    family="attention",
    modalities=("image",),
    merges=False,
    source="VisPruner, arXiv 2412.01818",
    summary="keeps half by attention, and of the others those left after dropping the most similar, some at a time",
    approximate=True,
)
@dataclass(frozen=True)
class Vispruner(Attends):
    """Parameters of VisPruner.

    Attributes:
        important: r, the share of K that attention decides; the paper uses .75 at K = 64.
        drop: the most tokens that a round drops.
    """

    important: float = 0.5
    drop: int = 8

    examples = (
        Example(Case(13, 5, 4)),
        Example(Case(13, 5, 4), important=0.3, drop=2),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.important <= 1:
            raise RequestError(
                f"important {self.important} is outside 0..1",
                where="method 'vispruner'",
                fix="Use --set important=0.5, as in the paper.",
            )
        if self.drop < 1:
            raise RequestError(
                f"drop {self.drop} is below 1", where="method 'vispruner'", fix="Use --set drop=8, as in the paper."
            )

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def _counts(self, case: Case) -> tuple[int, list[int]]:
        """How many are important, and how many tokens each round drops."""
        important = int(case.keep * self.important)
        length, rounds = case.tokens - important, []
        while important < case.keep and length > case.keep - important:
            rounds.append(min(self.drop, length - (case.keep - important), (length + 1) // 2))
            length -= rounds[-1]
        return important, rounds

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        import torch

        important, rounds = self._counts(case)
        order = select.top_k(self.attended(signals), case.tokens)
        if important == case.keep or not rounds:
            return keep_highest(tokens, self.attended(signals), case.keep)
        similar = (cosines(tokens.float()) * _steps(case)).round()
        row = torch.arange(len(tokens), device=tokens.device)[:, None]
        rest = order[:, important:]
        for drop in rounds:
            a, b = rest[:, ::2], rest[:, 1::2]
            scores = similar[row[..., None], a[:, :, None], b[:, None]].amax(2)
            stay = select.top_k(scores, a.shape[1])[:, drop:].sort(dim=1).values
            rest = torch.cat([a.gather(1, stay), b], 1)
        return select.selection(tokens, torch.cat([order[:, :important], rest], 1).sort(dim=1).values)

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Search for rounds that lead to `got`, with each similarity rounded up or down if both are possible."""
        import torch

        important, rounds = self._counts(case)
        order = select.top_k(self.attended(signals), case.tokens)
        expected = select.selection(tokens, got.kept_indices)
        if important == case.keep or not rounds:
            return Replay(self.reference(case, tokens, **signals), torch.zeros(len(tokens)).double())
        similar = cosines(tokens.float()) * _steps(case)
        regret = []
        for places, cosine, kept in zip(order, similar, got.kept_indices):
            wanted = torch.zeros(case.tokens, dtype=torch.bool)
            wanted[kept] = True
            first, rest = places[:important], places[important:]
            found = bool(wanted[first].all()) and _reaches(cosine, rest, rounds, wanted, itertools.count())
            regret.append(0.0 if found else torch.inf)
        return Replay(expected, torch.tensor(regret, dtype=torch.float64))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """All cosines once; each round gathers those of A to B."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        attention = self.emit_attended(b, signals)
        important, rounds = self._counts(case)
        if important == k:
            return emit_keep_highest(b, case, tokens, attention)
        cosine = emit_cosines(b, select.emit_float(b, tokens, case))
        similar = b.op("Mul", b.op("Round", b.op("Mul", cosine, _steps(case))), float(n))
        _, order = select.emit_top_k(b, attention, n, n)
        rest, length = b.op("Slice", order, [important], [n], [1]), n - important
        for drop in rounds:
            half = (length + 1) // 2
            even, odd = (b.op("Slice", rest, [start], [length], [1], [2]) for start in (0, 1))
            to_odd = b.op("Transpose", select.emit_gather(b, similar, odd), perm=[0, 2, 1])
            scores = b.op("ReduceMax", select.emit_gather(b, to_odd, even), [2], keepdims=0)
            stay = _emit_rest(b, b.op("Sub", scores, select.emit_iota(b, 1, half)), drop, half)
            rest = b.op("Concat", b.op("GatherElements", even, stay, axis=1), odd, axis=1)
            length -= drop
        chosen = b.op("Concat", b.op("Slice", order, [0], [important], [1]), rest, axis=1) if important else rest
        kept, _ = select.emit_sort(b, chosen, k)
        return select.emit_selection(b, case, tokens, kept)


def _steps(case: Case) -> float:
    """Number of steps for a similarity: list indices fit below one step, exactly in float32."""
    return float(min(4096, 2**24 // case.tokens - 1))


def _emit_rest(b: Builder, keys: ir.Value, drop: int, count: int) -> ir.Value:
    """Ascending indices [B, count - drop] int64 of all but the `drop` largest of distinct keys [B, count]."""
    # No two keys are equal, so the order of TopK is the same on every target.
    _, order = b.ops("TopK", keys, [count], n=2, axis=-1, largest=1, sorted=1)
    stay = b.cast(b.op("Slice", order, [drop], [count], [1]), "float32")
    places, _ = b.ops("TopK", stay, [count - drop], n=2, axis=-1, largest=0, sorted=1)
    return b.cast(places, "int64")


def _reaches(
    similar: torch.Tensor, rest: torch.Tensor, rounds: list[int], wanted: torch.Tensor, tried: itertools.count[int]
) -> bool:
    """Whether rounds on the list `rest` can leave exactly tokens that are `wanted`."""
    if not rounds:
        return bool(wanted[rest].all())
    if next(tried) > _PATIENCE:
        return False
    import torch

    a, b = rest[::2], rest[1::2]
    best = similar[a][:, b].amax(1)
    low, high = (best - _ROUNDING).round(), (best + _ROUNDING).round()
    either = (low < high).nonzero()[:, 0]
    seen = set()
    for ups in itertools.product((0.0, 1.0), repeat=min(len(either), _FLIPS)):
        scores = low.clone()
        scores[either] += torch.tensor(ups)[torch.arange(len(either)) % _FLIPS]
        dropped = select.top_k(scores[None], len(a))[0, : rounds[0]]
        key = tuple(dropped.sort().values.tolist())
        if key in seen or bool(wanted[a[dropped]].any()):
            continue
        seen.add(key)
        stay = torch.ones(len(a), dtype=torch.bool)
        stay[dropped] = False
        if _reaches(similar, torch.cat([a[stay], b]), rounds[1:], wanted, tried):
            return True
    return False
