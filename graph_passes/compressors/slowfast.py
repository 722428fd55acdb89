"""slowfast: a few frames in detail, all frames coarsely.

Source: SlowFast-LLaVA (Xu et al. 2024, arXiv 2407.15841) and its released configuration, after the projector. For
tokens [T, h, w, D] in reading order:

    slow   S frames, those at floor(i T / S); the maximum (or mean) of each two neighbours along the token axis:
           floor(h w / 2) tokens per frame; an odd last token is not part of it
    fast   all T frames, each pooled adaptively to g x g by its mean (see adaptive.py)
    slots  slow, then fast: K = S floor(h w / 2) + T g^2; 10 of 50 frames of 576 and g = 4 give 2,880 + 800

Every token of a slow frame goes into two slots. `assignment` names the slow one, of size 2; a fast slot of a slow frame
repeats its content and has size 1. A fast slot of any other frame counts the tokens that it reads most of. The position
of a slow slot is the first of its two tokens, that of a fast one the middle of its window. kept_indices are not
ascending.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.adaptive import emit_pooled, middle_places, placed
from .blocks.fixed import emit_fixed_map, fixed
from .blocks.grids import video_grid_of

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "slowfast",
    family="transformation",
    modalities=("video",),
    merges=True,
    source="SlowFast-LLaVA, arXiv 2407.15841",
    seam="projector_output",
    summary="a few frames pooled by two, all frames pooled to a small grid; reaches one count",
    fixed=True,
)
@dataclass(frozen=True)
class Slowfast:
    """Parameters of slowfast.

    Attributes:
        slow: S, frames of the slow path; at most T.
        fast: g, side of the grid of a frame of the fast path.
        mode: how two neighbours of the slow path become one.
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    slow: int = 10
    fast: int = 4
    mode: Literal["max", "average"] = "max"
    grid: str | None = None
    ascending = False

    examples = (Example(Case(60, 5, 32, grid=(5, 3, 4)), Case(45, 5, 28, grid=(5, 3, 3)), slow=2, fast=2),)

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """A video of at least S frames of at least g x g, and the one K."""
        frames, height, width = video_grid_of(case, self.grid)
        where = f"a video of {frames}x{height}x{width}"
        if not 1 <= self.slow <= frames:
            raise RequestError(f"slow={self.slow} frames", where=where, fix=f"Use --set slow=1 to {frames}.")
        if not 1 <= self.fast <= min(height, width):
            fix = f"Use --set fast=1 to {min(height, width)}."
            raise RequestError(f"fast={self.fast} is not a valid grid side here", where=where, fix=fix)
        slow, fast = self.slow * (height * width // 2), frames * self.fast**2
        select.check_counts(case, {slow + fast: f"{slow} slow and {fast} fast"}, f"slowfast with slow={self.slow}")

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """PyTorch's own pooling; pooling one-hot positions shows which fast slot reads most of each."""
        import torch
        from torch.nn import functional as F

        frames, height, width = video_grid_of(case, self.grid)
        places, pairs = height * width, height * width // 2
        video = tokens.float().unflatten(1, (frames, places))
        chosen = torch.arange(self.slow, device=tokens.device) * frames // self.slow
        pool = F.max_pool1d if self.mode == "max" else F.avg_pool1d
        slow = pool(video[:, chosen].flatten(0, 1).transpose(1, 2), 2).transpose(1, 2)
        slow = slow.reshape(len(tokens), -1, case.dim)

        def coarse(x: torch.Tensor) -> torch.Tensor:
            """[n, h w, C] -> [n, g^2, C]."""
            x = x.transpose(1, 2).unflatten(2, (height, width))
            return F.adaptive_avg_pool2d(x, self.fast).flatten(2).transpose(1, 2)

        fast = coarse(video.flatten(0, 1)).reshape(len(tokens), -1, case.dim)
        read = coarse(torch.eye(places, dtype=torch.float64, device=tokens.device)[None])[0].round(decimals=12)
        cell = select.top_k(read.T, 1)[:, 0]
        frame = torch.arange(frames, device=tokens.device)[:, None]
        slots = self.slow * pairs + frame * self.fast**2 + cell
        pair = torch.arange(places, device=tokens.device) // 2
        slow_slots = torch.arange(self.slow, device=tokens.device)[:, None] * pairs + pair
        # The last of an odd number of tokens has no pair; the fast path still reads it.
        slots[chosen] = torch.where(pair < pairs, slow_slots, slots[chosen])
        kept = (chosen[:, None] * places + torch.arange(0, 2 * pairs, 2, device=tokens.device)).flatten()
        middle = middle_places((height, width), (self.fast, self.fast), tokens.device)
        kept = torch.cat([kept, (frame * places + middle).flatten()])
        return fixed(tokens, torch.cat([slow, fast], 1), kept, slots.flatten())

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """Slow: Gather, Reshape, one reduction. Fast: two MatMuls with constant matrices."""
        frames, height, width = video_grid_of(case, self.grid)
        places, pairs, g = height * width, height * width // 2, self.fast
        x = select.emit_float(b, tokens, case)
        chosen = np.arange(self.slow) * frames // self.slow
        detail = b.op("Gather", b.op("Reshape", x, [-1, frames, places, case.dim]), chosen, axis=1)
        if places % 2:
            detail = b.op("Slice", detail, [0], [2 * pairs], [2])
        two = b.op("Reshape", detail, [-1, self.slow * pairs, 2, case.dim])
        slow = b.op("ReduceMax" if self.mode == "max" else "ReduceMean", two, [2], keepdims=0)

        fast = b.op("Reshape", emit_pooled(b, x, (height, width), (g, g), case.dim), [-1, frames * g * g, case.dim])

        middle, cell = placed((height, width), (g, g))
        slots = self.slow * pairs + np.arange(frames)[:, None] * g * g + cell
        for i, frame in enumerate(chosen):
            slots[frame, : 2 * pairs] = i * pairs + np.arange(2 * pairs) // 2
        position = np.arange(case.tokens).reshape(frames, places)
        kept = np.concatenate([position[chosen, : 2 * pairs : 2].ravel(), position[:, middle].ravel()])
        return emit_fixed_map(b, case, tokens, b.op("Concat", slow, fast, axis=1), kept, slots.ravel())
