"""CDPruner: the subset of tokens that are relevant to the text and different from each other, by a determinant.

Source: CDPruner (arXiv 2506.10967, NeurIPS 2025) and its code, after the projector; the greedy maximum is that of
Chen et al. (Fast Greedy MAP Inference for DPP, 2018). For tokens X [N, D], text rows T [L, D], K slots:

    rho_i = mean over l of cosine(x_i, t_l), negated if `inverted`
    r_i   = (rho_i - min rho + 1e-6) / (max rho - min rho + 1e-6)
    L_ij  = r_i cosine(x_i, x_j) r_j
    K times the token that adds most to det L of the picked; the picked tokens unchanged, in spatial order

A token adds its own L_ii = r_i^2 (0 for a token of zeros) minus the part that the picked tokens explain. One that adds
less than 1e-6 is ranked by r, after all that add more, because K may exceed the rank of L; the released code then keeps
fewer tokens. Released: rho is that of CLIP's image and text embeddings, always negated. There r is computed over all
crops of an image, here over one set, and divides by max - min alone, which is 0 if all tokens are equal. Domain: any K
from 1 to N; K = N is the identity.

The ONNX body is unrolled: eleven nodes per pick, 1,484 at K = 128. Each pick reads and writes the remaining N^2 entries
of L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import emit_keep_highest
from .blocks.cosine import cosines, emit_unit
from .blocks.greedy import Rule, greedy, greedy_regret
from .blocks.replay import Replay
from .blocks.texts import RanksByText, emit_mean_product, mean_cosine

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_NOTHING = 1e-6  # smaller additions are rounding, and relevance decides


@compressor(
    "cdpruner",
    family="query",
    modalities=("image", "video", "audio"),
    merges=False,
    source="CDPruner, arXiv 2506.10967",
    seam="projector_output",
    summary="keeps tokens that are relevant to the text and different from each other",
    plugin=True,
    heavy="each pick reads and writes all N^2 entries of L",
)
@dataclass(frozen=True)
class Cdpruner(RanksByText):
    """Parameters of CDPruner: the length of the text, and the sign of relevance."""

    examples = (
        Example(Case(13, 5, 4), inverted=False),
        Example(Case(13, 5, 4), inverted=True),
    )

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def reference(self, case: Case, tokens: torch.Tensor, text: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above, by a Cholesky factor with one row per pick."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        kept = greedy(self._rule(tokens, text), case.keep)
        return select.selection(tokens, kept.sort(dim=1).values)

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], text: torch.Tensor) -> Replay:
        """Each pick must be as good as the best; cosines are rounded relative to 1, and r by that over its range."""
        rules = (self._rule(*one) for one in zip(tokens.split(1), text.split(1)))
        return Replay(select.selection(tokens, got.kept_indices), greedy_regret(rules, got.kept_indices))

    def _rule(self, tokens: torch.Tensor, text: torch.Tensor) -> Rule[tuple[torch.Tensor, torch.Tensor]]:
        """The state is what each token adds [B, N], and the rows [B, picks, N] of the factor."""
        import torch

        x = tokens.float()
        likeness = self.signed(mean_cosine(x, text))
        low = likeness.amin(1, keepdim=True)
        spread = likeness.amax(1, keepdim=True) - low + _NOTHING
        relevance = (likeness - low + _NOTHING) / spread
        kernel = relevance[:, :, None] * cosines(x) * relevance[:, None]
        row = torch.arange(len(x), device=x.device)

        def scores(gain: torch.Tensor) -> torch.Tensor:
            return gain.where(gain > _NOTHING, _NOTHING * relevance)

        def update(
            state: tuple[torch.Tensor, torch.Tensor], pick: torch.Tensor
        ) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
            gain, factor = state
            own = gain[row, pick][:, None]
            explained = (factor * factor[row, :, pick][..., None]).sum(1)
            # A pick that added nothing explains nothing.
            entry = ((kernel[row, pick] - explained) / own.sqrt()).where(own > _NOTHING, 0)
            gain = gain - entry.square()
            return (gain, torch.cat([factor, entry[:, None]], 1)), scores(gain)

        gain = relevance.square() * (x != 0).any(2)
        return Rule(scores(gain), (gain, kernel[:, :0]), update, relevance.square() + relevance / spread)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, text: ir.Value) -> Compressed[ir.Value]:
        """Each pick is projected out of L; picks that added nothing are replaced by the most relevant tokens."""
        n, k = case.tokens, case.keep
        if k == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        unit = emit_unit(b, x)
        likeness = self.emit_signed(b, emit_mean_product(b, unit, text, unit=True))
        low = b.op("ReduceMin", likeness, [1], keepdims=1)
        spread = b.op("Add", b.op("Sub", b.op("ReduceMax", likeness, [1], keepdims=1), low), _NOTHING)
        relevance = b.op("Div", b.op("Add", b.op("Sub", likeness, low), _NOTHING), spread)
        across, down = b.op("Unsqueeze", relevance, [1]), b.op("Unsqueeze", relevance, [2])
        real = b.op("Greater", b.op("ReduceMax", b.op("Abs", x), [2], keepdims=1), 0.0)
        gain = b.op("Mul", b.op("Mul", across, across), b.cast(b.op("Transpose", real, perm=[0, 2, 1]), "float32"))
        cosine = b.op("MatMul", unit, b.op("Transpose", unit, perm=[0, 2, 1]))
        # The diagonal is exactly the gains, so that exactly nothing remains of a pick.
        itself = b.const(np.eye(n, dtype=bool)[None])
        left = b.op("Where", itself, gain, b.op("Mul", b.op("Mul", cosine, down), across))

        picks, adds = [], []
        while True:
            if b.exact_ties:
                pick = b.cast(select.emit_argmax(b, gain, 2, (1, 1, n)), "int64")
            else:
                pick = b.op("ArgMax", gain, axis=2, keepdims=1)
            best = b.op("ReduceMax", gain, [2], keepdims=1)
            picks.append(pick)
            adds.append(b.op("Greater", best, _NOTHING))
            if len(picks) == k:
                break
            row = b.op("GatherND", left, pick, batch_dims=1)
            part = b.op("Div", row, b.op("Where", adds[-1], best, 1.0))
            gain = b.op("Sub", gain, b.op("Mul", row, part))
            left = b.op("Sub", left, b.op("Mul", row, b.op("Transpose", part, perm=[0, 2, 1])))

        position = b.cast(b.op("Concat", *picks, axis=1) if k > 1 else picks[0], "float32")
        position = b.op("Where", b.op("Concat", *adds, axis=1) if k > 1 else adds[0], position, -1.0)
        here = b.cast(b.op("Equal", position, select.emit_iota(b, 1, 1, n)), "float32")
        taken = b.op("Greater", b.op("ReduceMax", here, [1], keepdims=0), 0.0)
        return emit_keep_highest(b, case, tokens, b.op("Where", taken, 2.0, relevance))
