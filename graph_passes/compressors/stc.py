"""STC: convolutions on each frame, one over space and time that halves all three sides, and convolutions again.

Source: VideoLLaMA 2 (Cheng et al. 2024, arXiv 2406.07476), its spatial-temporal convolution connector, as released: the
blocks are timm's RegNet blocks, n a layer norm over channels, * a convolution without bias, s(x) = x sigmoid(x). For
tokens of T frames on a grid [h, w]:

    block(X) = s(n(C3 * excite(s(n(C2 * s(n(C1 * X)))))) + X)         C1 and C3 1 x 1, C2 depthwise 3 x 3
    excite(U) = U sigmoid(W2 s(W1 mean(U) + b1) + b2)                  mean over a frame's grid
    Y = `depth` blocks on each frame, D to D'; the first has n(C0 * X) for X if D' is not D
    Z = s(C * Y + c)           C 2 x 2 x 2 with stride 2, padded with `padding` zeros on each side of all three axes
    slots = V2 gelu(V1 z + v1) + v2 of `depth` blocks on each frame of Z

    K = t' h' w' with side' = floor(side / 2) + padding: 8 x 24 x 24 gives 5 x 13 x 13 = 845 padded, 576 not

`padding` is 1 in VideoLLaMA 2 (stc_connector) and 0 in 2.1 (stc_connector_v35). W1 has a quarter of the channels that
its block reads, rounded.

Weights come from a file and have the names of released checkpoints, after the prefix model.mm_projector: for the stages
s1 and s2 and block j from 1 on s1.bj.conv1 to .conv3, and .downsample (C0), each with .conv.weight, .bn.weight and
.bn.bias (n); .se.fc1 and .se.fc2; sampler.0 (C, c); readout.0 and readout.2 (V1, V2).

A slot has the first position that it reads on each axis, and tokens are assigned to the one slot that reads them in C,
ignoring the blocks. Without padding the last of an odd number is lost. sizes are 1: the weight of a slot is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
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
from .blocks.grids import video_grid_of
from .blocks.layers import mlp
from .blocks.neural import emit_floats, emit_mlp, emit_silu, mlp_shapes
from .blocks.weights import ReadsWeights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_READOUT = ("readout.0", "readout.2")


@compressor(
    "stc",
    family="transformation",
    modalities=("video",),
    merges=False,
    source="VideoLLaMA 2, arXiv 2406.07476",
    summary="convolutions over space, then over space and time with stride 2; weights from a file",
)
@dataclass(frozen=True)
class Stc(ReadsWeights):
    """Parameters of STC.

    Attributes:
        padding: zeros around the video before the strided convolution, 0 or 1.
        depth: blocks of each stage; 0 omits the stages, and needs D' = D.
        channels: D'; 0: those of the tokens.
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    padding: int = 1
    depth: int = 4
    channels: int = 0
    grid: str | None = None

    examples = (
        Example(Case(30, 5, 12, grid=(3, 2, 5)), depth=1),
        Example(Case(30, 5, 2, grid=(3, 2, 5)), depth=1, padding=0, channels=7),
    )

    def __post_init__(self) -> None:
        if self.padding not in (0, 1):
            raise RequestError(
                f"padding {self.padding} is neither 0 nor 1",
                where="method 'stc'",
                fix="VideoLLaMA 2 has 1, VideoLLaMA 2.1 has 0.",
            )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def width(self, case: Case) -> int:
        """D'."""
        return self.channels or case.dim

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """As above."""
        wide = self.width(case)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, block_in in self._blocks(case):
            shapes |= pointwise_shapes(f"{name}.conv1.conv", f"{name}.conv1.bn", block_in, wide)
            shapes |= depthwise_shapes(f"{name}.conv2.conv", f"{name}.conv2.bn", wide)
            shapes |= squeeze_shapes(f"{name}.se", wide, max(1, round(block_in / 4)))
            shapes |= pointwise_shapes(f"{name}.conv3.conv", f"{name}.conv3.bn", wide, wide)
            if block_in != wide:
                shapes |= pointwise_shapes(f"{name}.downsample.conv", f"{name}.downsample.bn", block_in, wide)
        sampler = {"sampler.0.weight": (wide, wide, 2, 2, 2), "sampler.0.bias": (wide,)}
        return shapes | sampler | mlp_shapes(_READOUT, wide, wide)

    def halves(self, case: Case) -> tuple[int, int, int]:
        """(t', h', w')."""
        frames, height, width = video_grid_of(case, self.grid)
        return frames // 2 + self.padding, height // 2 + self.padding, width // 2 + self.padding

    def check(self, case: Case) -> None:
        """A video, the K of the halved sides, and D' = D without blocks."""
        halves = self.halves(case)
        if min(halves) < 1:
            sides = "x".join(map(str, video_grid_of(case, self.grid)))
            raise RequestError(
                f"stc halves a video of {sides}, and without padding a side of 1 becomes 0",
                fix="Use 2 frames or more, or --set padding=1 and weights that were trained with it.",
            )
        if self.depth < 0 or self.channels < 0 or (not self.depth and self.width(case) != case.dim):
            raise RequestError(
                f"stc with depth={self.depth} and channels={self.channels} for tokens of {case.dim} channels",
                fix="Neither may be negative, and depth=0 cannot change the channels.",
            )
        what = f"stc with padding={self.padding}"
        select.check_counts(case, {int(np.prod(halves)): "x".join(map(str, halves))}, what)

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """PyTorch's own layers; token positions, numbered from 1, are padded in the same way."""
        import torch
        from torch.nn import functional as F

        frames, height, width = video_grid_of(case, self.grid)
        w = {name: value.float() for name, value in w.items()}
        x = tokens.float().unflatten(1, (frames, height, width)).flatten(0, 1).movedim(-1, 1)
        y = self._stage(x, w, "s1").unflatten(0, (-1, frames)).movedim(2, 1)
        z = F.silu(F.conv3d(y, w["sampler.0.weight"], w["sampler.0.bias"], stride=2, padding=self.padding))
        z = self._stage(z.movedim(1, 2).flatten(0, 1), w, "s2").unflatten(0, (-1, z.shape[2]))
        content = mlp(z.movedim(2, -1).flatten(1, 3), w, _READOUT)

        places = torch.arange(1, case.tokens + 1, device=tokens.device).view(frames, height, width)
        padded = F.pad(places, (self.padding,) * 6)
        windows = padded.unfold(0, 2, 2).unfold(1, 2, 2).unfold(2, 2, 2).flatten(3).flatten(0, 2)
        kept = windows.masked_fill(windows == 0, case.tokens + 1).amin(1) - 1
        slots = torch.full((case.tokens + 1,), -1, device=tokens.device)
        slots[windows] = torch.arange(case.keep, device=tokens.device)[:, None].expand_as(windows)
        return fixed(tokens, content, kept, slots[1:], merges=False)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """Frames as a batch; one Conv over space and time between two Transposes."""
        sides, halves, wide = video_grid_of(case, self.grid), self.halves(case), self.width(case)
        w = emit_flat_kernels(b, emit_floats(b, w, case), self.shapes(case))
        x = b.op("Reshape", select.emit_float(b, tokens, case), [-1, sides[1] * sides[2], case.dim])
        x = self._emit_stage(b, x, w, case, "s1", sides)
        video = b.op("Transpose", b.op("Reshape", x, [-1, *sides, wide]), perm=[0, 4, 1, 2, 3])
        mixed = b.op(
            "Conv",
            video,
            w["sampler.0.weight"],
            w["sampler.0.bias"],
            kernel_shape=[2, 2, 2],
            strides=[2, 2, 2],
            pads=[self.padding] * 6,
        )
        z = emit_silu(b, b.op("Transpose", mixed, perm=[0, 2, 3, 4, 1]))
        z = b.op("Reshape", z, [-1, halves[1] * halves[2], wide])
        z = self._emit_stage(b, z, w, case, "s2", halves)
        content = b.op("Reshape", emit_mlp(b, z, w, _READOUT), [-1, case.keep, wide])
        kept, slots = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for side, half in zip(sides, halves):
            kept = (kept[:, None] * side + np.maximum(2 * np.arange(half) - self.padding, 0)).ravel()
            at = (np.arange(side) + self.padding) // 2
            inside = (slots[:, None] >= 0) & (at < half)
            slots = np.where(inside, slots[:, None] * half + at, -1).ravel()
        return emit_fixed_map(b, case, tokens, content, kept, slots, merges=False)

    def _blocks(self, case: Case) -> list[tuple[str, int]]:
        """Name of each block, and the channels that it reads."""
        first = {"s1.b1": case.dim}
        names = [f"{stage}.b{j + 1}" for stage in ("s1", "s2") for j in range(self.depth)]
        return [(name, first.get(name, self.width(case))) for name in names]

    def _stage(self, x: torch.Tensor, w: Mapping[str, torch.Tensor], stage: str) -> torch.Tensor:
        """[B T, C, h, w] -> [B T, D', h, w]."""
        from torch.nn import functional as F

        for j in range(self.depth):
            name = f"{stage}.b{j + 1}"
            around = x
            if f"{name}.downsample.conv.weight" in w:
                around = convolved(x, w, f"{name}.downsample.conv", f"{name}.downsample.bn")
            for layer in ("conv1", "conv2"):
                x = F.silu(convolved(x, w, f"{name}.{layer}.conv", f"{name}.{layer}.bn"))
            x = excited(x, w, f"{name}.se", F.silu, F.sigmoid)
            x = F.silu(convolved(x, w, f"{name}.conv3.conv", f"{name}.conv3.bn") + around)
        return x

    def _emit_stage(
        self, b: Builder, x: ir.Value, w: Mapping[str, ir.Value], case: Case, stage: str, sides: tuple[int, int, int]
    ) -> ir.Value:
        """[B T, h w, C] -> [B T, h w, D']."""
        wide = self.width(case)
        for name, block_in in self._blocks(case):
            if not name.startswith(stage):
                continue
            deep = emit_silu(b, emit_pointwise(b, x, w, f"{name}.conv1.conv", f"{name}.conv1.bn"))
            layout = (sides[1], sides[2], wide)
            deep = emit_silu(b, emit_depthwise(b, deep, w, f"{name}.conv2.conv", f"{name}.conv2.bn", layout))
            deep = emit_excited(
                b, deep, w, f"{name}.se", lambda hidden: emit_silu(b, hidden), lambda scale: b.op("Sigmoid", scale)
            )
            deep = emit_pointwise(b, deep, w, f"{name}.conv3.conv", f"{name}.conv3.bn")
            if block_in != wide:
                x = emit_pointwise(b, x, w, f"{name}.downsample.conv", f"{name}.downsample.bn")
            x = emit_silu(b, b.op("Add", deep, x))
        return x
