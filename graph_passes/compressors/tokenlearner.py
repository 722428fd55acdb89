"""TokenLearner: K weighted means of all tokens, whose weights a small network reads off each token.

Source: TokenLearner (Ryoo et al. 2021, arXiv 2106.11297), version 1.1 of the released code, which needs no grid.
For tokens X [N, D] and K slots:

    A = softmax over tokens of W2 gelu(W1 norm(x) + b1) + b2        [N, K], GELU by its tanh form, H hidden channels
    slot k = sum_i A_ik x_i

Weights: norm.weight and norm.bias [D]; up.weight [H, D], up.bias [H]; down.weight [K, H], down.bias [K]. Slots have
no positions: kept_indices are equal steps, assignment is -1, and sizes are 1, because what reads them was trained
with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import select
from .base import Case, Compressed, compressor
from .fixed import emit_fixed_map, fixed, require_weights, without_positions
from .layers import layer_norm, linear
from .neural import emit_floats, emit_gelu_tanh, emit_layer_norm, emit_linear, linear_shapes, norm_shapes
from .weights import load_weights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..builder import Builder

_EPSILON = 1e-6


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
class Tokenlearner:
    """Parameters of TokenLearner.

    Attributes:
        hidden: H.
        weights: a .safetensors or .npz file with the arrays above.
    """

    hidden: int = 64
    weights: str = ""

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def arrays(self, case: Case) -> dict[str, np.ndarray]:
        """From the file; there are no others."""
        require_weights("tokenlearner", self.weights)
        layers = linear_shapes("up", case.dim, self.hidden) | linear_shapes("down", self.hidden, case.keep)
        return load_weights("tokenlearner", self.weights, norm_shapes("norm", case.dim) | layers)

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        import torch
        from torch.nn import functional as F

        x, w = tokens.float(), {name: value.float() for name, value in w.items()}
        maps = linear(F.gelu(linear(layer_norm(x, w, "norm", _EPSILON), w, "up"), approximate="tanh"), w, "down")
        kept, slots = (torch.from_numpy(each).to(tokens.device) for each in without_positions(case))
        return fixed(tokens, maps.softmax(1).mT @ x, kept, slots, merges=False)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """Two linear layers, a Softmax, a MatMul."""
        x, w = select.emit_float(b, tokens, case), emit_floats(b, w, case)
        hidden = emit_gelu_tanh(b, emit_linear(b, emit_layer_norm(b, x, w, "norm", _EPSILON), w, "up"))
        maps = b.op("Softmax", b.op("Transpose", emit_linear(b, hidden, w, "down"), perm=[0, 2, 1]), axis=2)
        return emit_fixed_map(b, case, tokens, b.op("MatMul", maps, x), *without_positions(case), merges=False)
