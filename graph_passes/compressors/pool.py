"""pool: every slot is the average, the maximum or an interpolation of neighbouring tokens.

Source: LLaVA-OneVision (Li et al. 2024, arXiv 2408.03326) and its code (`get_2dPool`), after the projector. For tokens
on a grid [h, w], row by row, and a stride s, each channel by itself:

    average   mean of each block of s x s         h' = floor(h / s), w' = floor(w / s): the remainder at the end is lost
    max       largest of each block of s x s      the same grid
    bilinear  resized to [h', w'], half-pixel centres, no antialias     h' = ceil(h / s), w' = ceil(w / s)

Audio is a line [N]: the same along time. K = h' w' determines the stride, and K = N (s = 1) is the identity, so only
some K are possible: 36, 16, 9, 4 and 1 of 12 x 12 = 144. Any other is refused, and the nearest possible ones are named.
If several strides lead to one K, `average` and `max` use the largest, which loses the fewest tokens.

kept_indices: the token nearest to the middle of the block, or to the interpolated point; the upper and the left one
among equals.

assignment and sizes: a block holds its s^2 tokens, and they are its size, also for `max`: a block of equal tokens
becomes that token with the weight of s^2 tokens. Interpolation reads two tokens along each axis, or the one that it
hits. A token goes to the slot that reads most of it, the first among equals, and is lost if no slot reads it. So
`bilinear` at stride 3 keeps one token of nine, and at stride 4 averages the middle four of sixteen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.fixed import emit_fixed_map, fixed
from .blocks.grids import grid_of

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

Mode = Literal["average", "max", "bilinear"]


@compressor(
    "pool",
    family="transformation",
    modalities=("image", "audio"),
    merges=True,
    source="LLaVA-OneVision, arXiv 2408.03326",
    seam="projector_output",
    summary="average, maximum or interpolation of neighbours; reaches only some counts",
    fixed=True,
)
@dataclass(frozen=True)
class Pool:
    """Parameters of pool.

    Attributes:
        mode: average, max or bilinear.
        grid: HEIGHTxWIDTH of the tokens, or their number for audio, if the model does not define it.
    """

    mode: Mode = "average"
    grid: str | None = None

    examples = (
        Example(Case(24, 5, 6, grid=(4, 6)), Case(24, 5, 24, grid=(4, 6))),
        Example(Case(24, 5, 6, grid=(4, 6)), Case(24, 5, 24, grid=(4, 6)), mode="max"),
        Example(Case(24, 5, 6, grid=(4, 6)), Case(24, 5, 24, grid=(4, 6)), mode="bilinear"),
    )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """A known grid, and a K that belongs to a stride."""
        strides = self.strides(grid_of(case, self.grid))
        counts = {keep: f"stride {stride}" for keep, stride in strides.items()}
        select.check_counts(case, counts, f"pool with mode={self.mode}")

    def strides(self, grid: tuple[int, ...]) -> dict[int, int]:
        """Each possible K of a grid -> its stride, from N down."""
        found: dict[int, int] = {}
        for stride in range(1, (min if self.mode != "bilinear" else max)(grid) + 1):
            keep = math.prod(self.shape(grid, stride))
            # A larger block of the same count loses fewer tokens; an interpolated grid is the same for every such
            # stride.
            found[keep] = found.get(keep, stride) if self.mode == "bilinear" else stride
        return found

    def shape(self, grid: tuple[int, ...], stride: int) -> tuple[int, ...]:
        """The grid of the slots."""
        return tuple(-(-side // stride) if self.mode == "bilinear" else side // stride for side in grid)

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """PyTorch's own pooling; pooling one-hot tokens in the same way shows what each slot reads of each token."""
        import torch

        grid = grid_of(case, self.grid)
        stride = self.strides(grid)[case.keep]
        shape = self.shape(grid, stride)
        pooled = self._pooled(tokens.float(), grid, stride)
        one_hot = torch.eye(case.tokens, dtype=torch.float64, device=tokens.device)
        read = self._pooled(one_hot[None], grid, stride)[0].T.round(decimals=9)  # [N, K]
        assignment = torch.where((read > 0).any(1), select.top_k(read, 1)[:, 0], -1)
        # Row by row, the middle of every block; ceil(x - 1/2) rounds a half down.
        middle = torch.zeros(1, dtype=torch.float64, device=tokens.device)
        for side, slots in zip(grid, shape):
            step = stride if self.mode != "bilinear" else side / slots
            at = (torch.arange(slots, dtype=torch.float64, device=tokens.device) + 0.5) * step - 0.5
            middle = (middle[:, None] * side + (at - 0.5 - 1e-9).ceil()).flatten()
        return fixed(tokens, pooled, middle.long(), assignment)

    def _pooled(self, x: torch.Tensor, grid: tuple[int, ...], stride: int) -> torch.Tensor:
        """[B, N, C] -> [B, K, C]."""
        from torch.nn import functional as F

        x, line = x.transpose(1, 2).unflatten(2, grid), len(grid) == 1
        if self.mode == "bilinear":
            kind = "linear" if line else "bilinear"
            x = F.interpolate(x, size=self.shape(grid, stride), mode=kind, align_corners=False)
        elif self.mode == "average":
            x = F.avg_pool1d(x, stride) if line else F.avg_pool2d(x, stride)
        else:
            x = F.max_pool1d(x, stride) if line else F.max_pool2d(x, stride)
        return x.flatten(2).transpose(1, 2)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """Axis by axis, rows first: blocks by Reshape and a reduction, interpolation by a constant matrix."""
        grid = grid_of(case, self.grid)
        stride = self.strides(grid)[case.keep]
        if stride == 1:
            return select.emit_every_token(b, case, tokens)
        shape = self.shape(grid, stride)
        x = select.emit_float(b, tokens, case)
        slots, kept = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for axis, (side, count) in enumerate(zip(grid, shape)):
            inner = math.prod(grid[axis + 1 :]) * case.dim
            x = b.op("Reshape", x, [-1, side, inner])
            if self.mode == "bilinear":
                weights = _interpolation(side, count)
                x = b.op("MatMul", (weights / (2 * count)).astype(np.float32), x)
                slot = np.where(weights.any(0), weights.argmax(0), -1)
                middle = weights.argmax(1)
            else:
                if count * stride < side:
                    x = b.op("Slice", x, [0], [count * stride], [1])
                blocks = b.op("Reshape", x, [-1, count, stride, inner])
                x = b.op("ReduceMean" if self.mode == "average" else "ReduceMax", blocks, [2], keepdims=0)
                slot = np.where(np.arange(side) < count * stride, np.arange(side) // stride, -1)
                middle = np.arange(count) * stride + (stride - 1) // 2
            both = slots[:, None] * count + slot
            slots = np.where((slots[:, None] < 0) | (slot < 0), -1, both).ravel()
            kept = (kept[:, None] * side + middle).ravel()
        return emit_fixed_map(b, case, tokens, b.op("Reshape", x, [-1, case.keep, case.dim]), kept, slots)


def _interpolation(side: int, count: int) -> np.ndarray:
    """Weights [count, side] int64 of the linear resize of a line, half-pixel centres, in units of 1 / (2 count).

    Whole numbers, because in floating point two equal shares of a token may differ. Point i lies at
    ((2 i + 1) side - count) / (2 count).
    """
    weights = np.zeros((count, side), np.int64)
    for i in range(count):
        left, part = divmod((2 * i + 1) * side - count, 2 * count)
        weights[i, left] = 2 * count - part
        if part:
            weights[i, left + 1] = part
    return weights
