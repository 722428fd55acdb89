"""LDP: two blocks of depthwise and 1 x 1 convolutions; the second halves the grid.

Source: MobileVLM (Chu et al. 2023, arXiv 2312.16886), its lightweight downsample projector, as released. For tokens on
a grid [h, w], n a layer norm over channels and * a convolution without bias:

    Y = X, or W2 gelu(W1 x + b1) + b2 with ``mlp``
    block(Z, stride) = n(P * excite(hardswish(n(V * Z))))         V depthwise 3 x 3 with the stride, P 1 x 1
    excite(U) = U hardsigmoid(W4 relu(W3 mean(U) + b3) + b4)      mean over the grid
    R = Y + block(Y, 1)
    slots = block(R, 2)                                           K = ceil(h / 2) ceil(w / 2): 576 to 144

W3 has a quarter of the channels, rounded to a multiple of 8.

Weights have the names of released checkpoints, after the prefix model.mm_projector.model: with ``mlp`` mlp.1 [D', D]
and mlp.3 [D', D'] with their biases; for blocks i = 1 and 2 mb_block.i.block.0.0 (V), .0.1 (norm), .1.fc1 and .1.fc2
(W3, W4), .2.0 (P), .2.1 (norm). They come from a file: the second block has no residual path, and has norms, so no
default weights would leave tokens unchanged.

Slot (i, j) reads most of the token at (2 i, 2 j) and has its position; tokens of a 2 x 2 block are assigned to its
slot. sizes are 1: the weight of a slot is learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.convolved import (
    convolved,
    depthwise_shapes,
    emit_depthwise,
    emit_excited,
    emit_flat_kernels,
    emit_pointwise,
    excited,
    pointwise_shapes,
    squeeze_shapes,
)
from .blocks.fixed import emit_fixed_map, fixed
from .blocks.grids import picture_of
from .blocks.neural import emit_floats, emit_hard_sigmoid, emit_hard_swish
from .blocks.projects import Projects

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_MLP = ("mlp.1", "mlp.3")
_BLOCKS = {"mb_block.1.block": 1, "mb_block.2.block": 2}  # and their strides


def squeezed_channels(wide: int) -> int:
    """A quarter of `wide`, rounded to a multiple of 8, at least 8 and at least nine tenths of the quarter."""
    quarter = wide // 4
    near = max(8, (quarter + 4) // 8 * 8)
    return near if near >= 0.9 * quarter else near + 8


@compressor(
    "ldp",
    family="transformation",
    modalities=("image",),
    merges=False,
    source="MobileVLM, arXiv 2312.16886",
    seam="projector_output",
    summary="two blocks of depthwise convolutions, the second with stride 2; weights from a file",
)
@dataclass(frozen=True)
class Ldp(Projects):
    """LDP."""

    examples = (
        Example(Case(15, 5, 6, grid=(3, 5))),
        Example(Case(16, 5, 4, grid=(4, 4)), mlp=True, channels=7),
    )

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """As above."""
        wide = self.width(case)
        shapes = self.mlp_shapes(case, _MLP)
        for block in _BLOCKS:
            shapes |= depthwise_shapes(f"{block}.0.0", f"{block}.0.1", wide)
            shapes |= squeeze_shapes(f"{block}.1", wide, squeezed_channels(wide))
            shapes |= pointwise_shapes(f"{block}.2.0", f"{block}.2.1", wide, wide)
        return shapes

    def check(self, case: Case) -> None:
        """A grid, and the K of the halved grid."""
        self.check_projector(case)
        height, width = (-(-side // 2) for side in picture_of(case, self.grid, "ldp"))
        select.check_counts(case, {height * width: f"{height}x{width}"}, "ldp")

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """PyTorch's own layers."""
        import torch
        from torch.nn import functional as F

        height, width = picture_of(case, self.grid, "ldp")
        w = {name: value.float() for name, value in w.items()}
        z = self.projected(tokens.float(), w, _MLP).mT.unflatten(2, (height, width))
        for block, stride in _BLOCKS.items():
            deep = F.hardswish(convolved(z, w, f"{block}.0.0", f"{block}.0.1", stride))
            deep = excited(deep, w, f"{block}.1", torch.relu, F.hardsigmoid)
            out = convolved(deep, w, f"{block}.2.0", f"{block}.2.1")
            z = z + out if stride == 1 else out
        place = torch.arange(case.tokens, device=tokens.device).view(height, width)
        slots = torch.arange(case.keep, device=tokens.device).view(1, 1, *z.shape[2:]).float()
        owner = F.interpolate(slots, scale_factor=2, mode="nearest")[0, 0, :height, :width].long()
        return fixed(tokens, z.flatten(2).mT, place[::2, ::2].flatten(), owner.flatten(), merges=False)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """One Conv per block; everything else has channels last."""
        (height, width), wide = picture_of(case, self.grid, "ldp"), self.width(case)
        w = emit_flat_kernels(b, emit_floats(b, w, case), self.shapes(case))
        x = self.emit_projected(b, select.emit_float(b, tokens, case), w, _MLP)
        for block, stride in _BLOCKS.items():
            deep = emit_depthwise(b, x, w, f"{block}.0.0", f"{block}.0.1", (height, width, wide), stride)
            deep = emit_excited(
                b,
                emit_hard_swish(b, deep),
                w,
                f"{block}.1",
                lambda hidden: b.op("Relu", hidden),
                lambda scale: emit_hard_sigmoid(b, scale),
            )
            out = emit_pointwise(b, deep, w, f"{block}.2.0", f"{block}.2.1")
            x = b.op("Add", x, out) if stride == 1 else out
        rows, columns = np.arange(height), np.arange(width)
        kept = (rows[::2, None] * width + columns[::2]).ravel()
        slots = (rows[:, None] // 2 * -(-width // 2) + columns // 2).ravel()
        return emit_fixed_map(b, case, tokens, x, kept, slots, merges=False)
