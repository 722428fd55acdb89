"""LDPv2: average pooling to a smaller grid, and a convolution that adds each slot's position.

Source: MobileVLM V2 (Chu et al. 2024, arXiv 2402.03766), its downsample projector. For tokens on a grid [h, w] and
a side s:

    Y = X, or W2 gelu(W1 x + b1) + b2 with ``mlp``
    Z = adaptive average pooling of Y to s x s (see adaptive.py)
    slots = Z + 3 x 3 depthwise convolution of Z, padded with zeros        K = s^2: 576 to 144

Weights: peg.weight [D', 1, 3, 3], peg.bias [D']; with ``mlp`` also mlp.0 [D', D] and mlp.2 [D', D'] with their
biases; in released checkpoints peg.peg.0, mlp.mlp.0 and mlp.mlp.2, after the prefix model.mm_projector. Without a
file the convolution is zero, which leaves pooling, and there is no MLP. A slot inherits the middle of its window, and
tokens are assigned to the window that reads most of them. sizes are 1: the weight of a slot is learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.adaptive import emit_pooled, middle_places, placed
from .blocks.fixed import emit_fixed_map, fixed
from .blocks.grids import picture_of
from .blocks.neural import emit_floats
from .blocks.projects import Projects

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


_MLP = ("mlp.0", "mlp.2")


@compressor(
    "ldpv2",
    family="transformation",
    modalities=("image",),
    merges=False,
    source="MobileVLM V2, arXiv 2402.03766",
    seam="projector_output",
    summary="average pooling and a learned position convolution; weights from a file, or pooling alone",
)
@dataclass(frozen=True)
class Ldpv2(Projects):
    """LDPv2."""

    examples = (
        Example(Case(15, 5, 4, grid=(3, 5))),
        Example(Case(15, 5, 9, grid=(3, 5)), mlp=True, channels=7),
    )

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """As above."""
        wide = self.width(case)
        return {"peg.weight": (wide, 1, 3, 3), "peg.bias": (wide,), **self.mlp_shapes(case, _MLP)}

    def initial(self, case: Case) -> dict[str, np.ndarray]:
        """A convolution of zeros."""
        return {name: np.zeros(shape, np.float32) for name, shape in self.shapes(case).items()}

    def check(self, case: Case) -> None:
        """A grid, and K a square that fits into it; weights if there is an MLP."""
        self.check_projector(case)
        grid = picture_of(case, self.grid, "ldpv2")
        select.check_counts(case, {side * side: f"{side}x{side}" for side in range(1, min(grid) + 1)}, "ldpv2")

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """PyTorch's own layers; pooling one-hot positions shows which slot reads most of each."""
        import torch
        from torch.nn import functional as F

        (height, width), side = picture_of(case, self.grid, "ldpv2"), math.isqrt(case.keep)
        w = {name: value.float() for name, value in w.items()}
        x = self.projected(tokens.float(), w, _MLP)

        def pooled(rows: torch.Tensor) -> torch.Tensor:
            """[B, N, C] -> [B, C, s, s]."""
            return F.adaptive_avg_pool2d(rows.transpose(1, 2).unflatten(2, (height, width)), side)

        z = pooled(x)
        z = z + F.conv2d(z, w["peg.weight"], w["peg.bias"], padding=1, groups=z.shape[1])
        read = pooled(torch.eye(case.tokens, dtype=torch.float64, device=tokens.device)[None])[0].flatten(1)
        kept = middle_places((height, width), (side, side), tokens.device)
        slots = select.top_k(read.round(decimals=12), 1)[:, 0]
        return fixed(tokens, z.flatten(2).transpose(1, 2), kept, slots, merges=False)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """Two MatMuls with constant matrices pool; one Conv."""
        grid, side, wide = picture_of(case, self.grid, "ldpv2"), math.isqrt(case.keep), self.width(case)
        w = emit_floats(b, w, case)
        x = self.emit_projected(b, select.emit_float(b, tokens, case), w, _MLP)
        pooled = emit_pooled(b, x, grid, (side, side), wide)
        z = b.op("Transpose", b.op("Reshape", pooled, [-1, side, side, wide]), perm=[0, 3, 1, 2])
        peg = b.op("Conv", z, w["peg.weight"], w["peg.bias"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=wide)
        content = b.op("Transpose", b.op("Reshape", b.op("Add", z, peg), [-1, wide, case.keep]), perm=[0, 2, 1])
        return emit_fixed_map(b, case, tokens, content, *placed(grid, (side, side)), merges=False)
