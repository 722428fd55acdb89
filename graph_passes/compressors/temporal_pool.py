"""temporal_pool: every s consecutive frames of a video become their mean, per position.

Source: LLaVA-NeXT-Video and many others average consecutive frames; the simplest way to spend fewer tokens on
time. For tokens [T, h, w, D] and a stride s:

    slot (i, y, x) = mean of frames i s ... i s + s - 1 at (y, x)
    T' = floor(T / s): the remainder at the end is lost

K = T' h w, so only some K are possible; of several strides for one T' the largest is used, which loses the fewest
frames. A slot has the position of the middle one of its s frames, the earlier of two, and its size is s. K = N (s = 1)
is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.fixed import emit_fixed_map, fixed
from .blocks.grids import video_grid_of

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "temporal_pool",
    family="transformation",
    modalities=("video",),
    merges=True,
    source="LLaVA-NeXT-Video, LLaVA-VL blog 2024-04-30",
    seam="projector_output",
    summary="mean of every s consecutive frames, per position; reaches only some counts",
    fixed=True,
)
@dataclass(frozen=True)
class TemporalPool:
    """Parameters of temporal_pool.

    Attributes:
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    grid: str | None = None

    examples = (Example(Case(60, 5, 24, grid=(5, 3, 4)), Case(60, 5, 60, grid=(5, 3, 4))),)

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def strides(self, case: Case) -> dict[int, int]:
        """Each possible K -> its stride."""
        frames, height, width = video_grid_of(case, self.grid)
        return {frames // stride * height * width: stride for stride in range(1, frames + 1)}

    def check(self, case: Case) -> None:
        """A video, and a K that belongs to a stride."""
        counts = {keep: f"stride {stride}" for keep, stride in self.strides(case).items()}
        select.check_counts(case, counts, "temporal_pool")

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """PyTorch's own pooling over time."""
        import torch
        from torch.nn import functional as F

        frames, *_ = video_grid_of(case, self.grid)
        stride, places = self.strides(case)[case.keep], case.tokens // frames
        by_place = tokens.float().unflatten(1, (frames, places)).permute(0, 2, 3, 1).flatten(0, 1)
        pooled = F.avg_pool1d(by_place, stride).unflatten(0, (-1, places)).permute(0, 3, 1, 2).flatten(1, 2)
        position = torch.arange(case.tokens, device=tokens.device)
        frame, place = position // places, position % places
        slots = torch.where(frame // stride < frames // stride, frame // stride * places + place, -1)
        kept = position[(frame % stride == (stride - 1) // 2) & (slots >= 0)]
        return fixed(tokens, pooled, kept, slots)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """One Reshape and one ReduceMean."""
        frames, *_ = video_grid_of(case, self.grid)
        stride, places = self.strides(case)[case.keep], case.tokens // frames
        if stride == 1:
            return select.emit_every_token(b, case, tokens)
        count = frames // stride
        x = select.emit_float(b, tokens, case)
        if count * stride < frames:
            x = b.op("Slice", x, [0], [count * stride * places], [1])
        blocks = b.op("Reshape", x, [-1, count, stride, places * case.dim])
        pooled = b.op("Reshape", b.op("ReduceMean", blocks, [2], keepdims=0), [-1, case.keep, case.dim])
        slots = np.full((frames, places), -1)
        whole = slots[: count * stride].reshape(count, stride, places)
        whole[:] = np.arange(case.keep).reshape(count, 1, places)
        kept = np.arange(case.tokens).reshape(frames, places)[(stride - 1) // 2 : count * stride : stride]
        return emit_fixed_map(b, case, tokens, pooled, kept.ravel(), slots.ravel())
