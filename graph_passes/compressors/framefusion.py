"""FrameFusion: tokens most similar to the one at their position in the previous frame are merged into it.

Source: FrameFusion (arXiv 2501.01986, ICCV 2025) and its code, which merges in the first layers of a language model.
For tokens X [T, h w, D] and K slots:

    s_tp   = cosine(x_tp, x_t-1,p), for all frames but the first
    merged = the N - K largest s, the lowest index first among equals
    an unmerged token is the head of the merged tokens that directly follow it at its position: a slot is their mean

A slot inherits the position of its head, and its size is the number of its tokens. A cosine with a token of zeros is 0.

Fixed-count form: the released code merges wherever s >= .6, layer after layer until little is left to merge. Then it
drops the tokens of the lowest attention until the requested cost is reached. Attention of the language model depends on
the text, so this second part is left out, and K is reached by merging alone, in one step. The released code does the
same if enough tokens are similar. Domain: h w <= K <= N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.frames import check_first_frame, cosines_before, emit_cosines_before
from .blocks.grids import places_of, video_grid_of
from .blocks.replay import Replay, top_k_regret
from .blocks.runs import emit_by_place, emit_merge_runs, emit_run_frames, emit_run_means, merge_runs, run_heads
from .blocks.shares import emit_positions

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "framefusion",
    family="similarity",
    modalities=("video",),
    merges=True,
    source="FrameFusion, arXiv 2501.01986",
    seam="projector_output",
    summary="averages tokens into the most similar ones a frame earlier; fixed-count form, without the pruning by text",
    approximate=True,
)
@dataclass(frozen=True)
class Framefusion:
    """Parameters of FrameFusion.

    Attributes:
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    grid: str | None = None

    examples = (
        Example(Case(60, 5, 12, grid=(5, 3, 4)), Case(60, 5, 31, grid=(5, 3, 4)), Case(60, 5, 60, grid=(5, 3, 4))),
    )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """A video, and h w <= K <= N."""
        check_first_frame(case, places_of(case, self.grid))

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        import torch

        likeness = self._likeness(case, tokens)
        merged = select.top_k(likeness, case.tokens - case.keep)
        return self._merge(case, tokens, torch.ones_like(likeness, dtype=torch.bool).scatter(1, merged, False))

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """A cosine is rounded relative to 1. All kept tokens are heads."""
        import torch

        likeness = self._likeness(case, tokens)
        heads = select.slots_of(got.kept_indices, case.tokens) >= 0
        regret = top_k_regret(likeness, ~heads, torch.ones_like(likeness))
        return Replay(self._merge(case, tokens, heads), regret)

    def _likeness(self, case: Case, tokens: torch.Tensor) -> torch.Tensor:
        """s [B, N], of the first frame below all others."""
        from torch.nn.functional import pad

        frames, *_ = video_grid_of(case, self.grid)
        places = case.tokens // frames
        return pad(cosines_before(tokens.float(), places), (places, 0), value=select.LOWEST)

    def _merge(self, case: Case, tokens: torch.Tensor, heads: torch.Tensor) -> Compressed[torch.Tensor]:
        """The result for heads [B, N]; every token of the first frame must be a head."""
        frames, *_ = video_grid_of(case, self.grid)
        kept = heads.nonzero()[:, 1].view(len(tokens), -1)
        return merge_runs(tokens, run_heads(heads.unflatten(1, (frames, -1))).clamp(min=0), kept)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """One product of consecutive frames, one TopK, and one small MatMul per position."""
        n, (frames, height, width) = case.tokens, video_grid_of(case, self.grid)
        places, rest = height * width, n - height * width
        if case.keep == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        _, merged = select.emit_top_k(b, emit_cosines_before(b, x, n, places), n - case.keep, rest)
        slots = select.emit_slots(b, b.cast(merged, "float32"), rest, select.emit_iota(b, 1, n - case.keep))
        heads = b.op("Concat", select.emit_rows(b, x, np.ones(places, bool)), b.op("Less", slots, 0.0), axis=1)
        by_place = b.op("Reshape", emit_by_place(b, b.cast(heads, "float32"), frames, places, 1), [-1, frames])
        head = emit_run_frames(b, b.op("Greater", by_place, 0.0), frames)
        content, sizes = emit_run_means(b, emit_by_place(b, x, frames, places, case.dim), head, frames)
        return emit_merge_runs(b, case, frames, emit_positions(b, heads, case.keep, n), head, content, sizes)
