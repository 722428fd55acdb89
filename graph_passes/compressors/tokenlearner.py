"""TokenLearner: K weighted means of all tokens, whose weights a small network computes from each token.

Source: TokenLearner (Ryoo et al. 2021, arXiv 2106.11297), version 1.1 of the released code, which needs no grid.
For tokens X [N, D] and K slots:

    A = softmax over tokens of W2 gelu(W1 norm(x) + b1) + b2        [N, K], GELU by its tanh form, H hidden channels
    slot k = sum_i A_ik x_i

Weights: norm.weight and norm.bias [D]; up.weight [H, D], up.bias [H]; down.weight [K, H], down.bias [K]. Slots have
no positions: kept_indices are equal steps, assignment is -1, and sizes are 1, because the downstream model was
trained with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.fixed import emit_resampled, resampled
from .blocks.learned_means import emit_learned_means, learned_means, means_shapes
from .blocks.neural import emit_floats
from .blocks.weights import ReadsWeights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "tokenlearner",
    family="transformation",
    modalities=("image", "video", "audio"),
    merges=False,
    source="TokenLearner, arXiv 2106.11297",
    summary="weighted means of all tokens, by learned weights from a file",
    positions=False,
)
@dataclass(frozen=True)
class Tokenlearner(ReadsWeights):
    """Parameters of TokenLearner.

    Attributes:
        hidden: H, hidden channels of the network that scores the tokens.
    """

    hidden: int = 64

    examples = (Example(Case(13, 5, 4), hidden=8),)

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """As above."""
        return means_shapes("", case.dim, self.hidden, case.keep)

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        w = {name: value.float() for name, value in w.items()}
        return resampled(case, tokens, learned_means(tokens.float(), w, ""))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """Two linear layers, a Softmax, a MatMul."""
        x, w = select.emit_float(b, tokens, case), emit_floats(b, w, case)
        return emit_resampled(b, case, tokens, emit_learned_means(b, x, w, ""))
