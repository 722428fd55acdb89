"""st_mean: one token per frame, and one per position.

Source: Video-ChatGPT (Maaz et al. 2024, arXiv 2306.05424, section 3.1), before its linear projector. For
tokens [T, h, w, D]:

    T temporal tokens    mean over the h w positions of a frame
    h w spatial tokens   mean over the T frames of a position
    slots                temporal tokens, then spatial tokens: K = T + h w, 100 + 256 in the paper

Every token goes into two slots. `assignment` names the spatial one, whose size is T; a temporal token repeats its
content and has size 1. The position of a temporal token is the first one of its frame, that of a spatial token is its
own in the first frame. So kept_indices are not ascending, and the first appears twice.
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
    "st_mean",
    family="transformation",
    modalities=("video",),
    merges=True,
    source="Video-ChatGPT, arXiv 2306.05424",
    seam="projector_input",
    summary="the mean of each frame and the mean of each position; reaches one count",
    fixed=True,
)
@dataclass(frozen=True)
class StMean:
    """Parameters of st_mean.

    Attributes:
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    grid: str | None = None
    ascending = False

    examples = (Example(Case(60, 5, 17, grid=(5, 3, 4)), Case(9, 3, 6, grid=(3, 3, 1))),)

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """A video, and K = T + h w."""
        frames, height, width = video_grid_of(case, self.grid)
        counts = {frames + height * width: f"{frames} frames and {height * width} positions"}
        select.check_counts(case, counts, "st_mean")

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The two means."""
        import torch

        frames, *_ = video_grid_of(case, self.grid)
        video = tokens.float().unflatten(1, (frames, -1))
        places = torch.arange(video.shape[2], device=tokens.device)
        first = torch.arange(frames, device=tokens.device) * len(places)
        content = torch.cat([video.mean(2), video.mean(1)], 1)
        return fixed(tokens, content, torch.cat([first, places]), (places + frames).repeat(frames))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """Two ReduceMean and a Concat."""
        frames, height, width = video_grid_of(case, self.grid)
        places = height * width
        video = b.op("Reshape", select.emit_float(b, tokens, case), [-1, frames, places, case.dim])
        means = [b.op("ReduceMean", video, [axis], keepdims=0) for axis in (2, 1)]
        position = np.arange(case.tokens)
        kept = np.concatenate([position[::places], position[:places]])
        return emit_fixed_map(b, case, tokens, b.op("Concat", *means, axis=1), kept, frames + position % places)
