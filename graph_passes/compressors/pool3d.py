"""pool3d: adaptive average pooling of a whole video, over time and space at once.

Source: PLLaVA (Xu et al. 2024, arXiv 2404.16994), after the projector: torch.nn.AdaptiveAvgPool3d to (16, 12, 12)
in its experiments. For tokens [T, h, w, D] and a shape [T', h', w'], slot (i, y, x) is the mean of the box of positions
that its windows cover along each axis (see adaptive.py). If a side is not a multiple, neighbouring boxes overlap.

K = T' h' w'. The shape is a parameter; without it every frame is kept and space is pooled to the square that
matches K, because PLLaVA found that time tolerates less pooling. A slot's position is the middle of its box, the upper,
left and earlier among equals. A token belongs to the box that reads most of it, the first among equals, and sizes count
those tokens.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.adaptive import emit_pooled, middle_places, placed
from .blocks.fixed import emit_fixed_map, fixed
from .blocks.grids import video_grid_of

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_SHAPE = re.compile(r"\s*(\d{1,9})\s*x\s*(\d{1,9})\s*x\s*(\d{1,9})\s*")


@compressor(
    "pool3d",
    family="transformation",
    modalities=("video",),
    merges=True,
    source="PLLaVA, arXiv 2404.16994",
    seam="projector_output",
    summary="adaptive average pooling over time and space",
    fixed=True,
)
@dataclass(frozen=True)
class Pool3d:
    """Parameters of pool3d.

    Attributes:
        shape: FRAMESxHEIGHTxWIDTH of the slots, such as 16x12x12; None: all frames, and a square per frame.
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    shape: str | None = None
    grid: str | None = None

    examples = (
        Example(Case(60, 5, 20, grid=(5, 3, 4)), Case(60, 5, 45, grid=(5, 3, 4)), Case(60, 5, 60, grid=(5, 3, 4))),
    )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def shape_of(self, case: Case) -> tuple[int, int, int]:
        """(frames, height, width) of the slots.

        Raises:
            RequestError: it is malformed, larger than the video, or does not result in K.
        """
        grid = video_grid_of(case, self.grid)
        where = f"{case.tokens} tokens of {case.dim} channels"
        if self.shape is None:
            squares = {grid[0] * side * side: f"{side}x{side} per frame" for side in range(1, min(grid[1:]) + 1)}
            squares.setdefault(case.tokens, "all tokens")
            select.check_counts(case, squares, "pool3d without --set shape=FRAMESxHEIGHTxWIDTH")
            side = math.isqrt(case.keep // grid[0])
            return grid if case.keep == case.tokens else (grid[0], side, side)
        found = _SHAPE.fullmatch(self.shape)
        if found is None:
            raise RequestError(f"shape {self.shape!r} is not FRAMESxHEIGHTxWIDTH", fix="Write it as 16x12x12.")
        frames, height, width = map(int, found.groups())
        shape = frames, height, width
        if any(not 1 <= count <= side for count, side in zip(shape, grid)):
            raise RequestError(
                f"shape {self.shape} does not fit a video of {'x'.join(map(str, grid))}",
                where=where,
                fix="Each axis needs at least one slot, and at most as many as it has positions.",
            )
        if math.prod(shape) != case.keep:
            raise RequestError(
                f"shape {self.shape} keeps {math.prod(shape)} tokens, not {case.keep}",
                where=where,
                fix=f"Use --keep {math.prod(shape)}, or change the shape.",
            )
        return shape

    def check(self, case: Case) -> None:
        """A video, and a shape that results in K."""
        self.shape_of(case)

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """PyTorch's own pooling; pooling one-hot positions shows which slot reads most of each."""
        import torch

        shape = self.shape_of(case)
        one_hot = torch.eye(case.tokens, dtype=torch.float64, device=tokens.device)[None]
        read = self._pooled(one_hot, case, shape)[0].T.round(decimals=12)  # [N, K]
        kept = middle_places(video_grid_of(case, self.grid), shape, tokens.device)
        return fixed(tokens, self._pooled(tokens.float(), case, shape), kept, select.top_k(read, 1)[:, 0])

    def _pooled(self, x: torch.Tensor, case: Case, shape: tuple[int, int, int]) -> torch.Tensor:
        """[B, N, C] -> [B, K, C]."""
        from torch.nn.functional import adaptive_avg_pool3d

        by_channel = x.transpose(1, 2).unflatten(2, video_grid_of(case, self.grid))
        return adaptive_avg_pool3d(by_channel, shape).flatten(2).transpose(1, 2)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """Axis by axis one MatMul with a constant matrix."""
        grid, shape = video_grid_of(case, self.grid), self.shape_of(case)
        if shape == grid:
            return select.emit_every_token(b, case, tokens)
        pooled = emit_pooled(b, select.emit_float(b, tokens, case), grid, shape, case.dim)
        content = b.op("Reshape", pooled, [-1, case.keep, case.dim])
        return emit_fixed_map(b, case, tokens, content, *placed(grid, shape))
