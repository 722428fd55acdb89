"""EVS: keep the first frame, and of all others the tokens that changed most since the previous frame.

Source: Efficient Video Sampling (NVIDIA, arXiv 2510.14624), as its code in vLLM behaves, after the
projector. For tokens X [T, h w, D] and K slots:

    d_tp = 1 - cosine(x_tp, x_t-1,p)        frame 0: more than any other
    kept = the K largest d, the lowest index first among equals; unchanged, in order; all others are lost

A cosine with a token of zeros is 0. The released count is max(h w, floor(T h w (1 - q))); here it is K, at least h w.
Domain: h w <= K <= N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import emit_keep_highest, keep_highest
from .blocks.frames import check_first_frame, cosines_before, emit_cosines_before
from .blocks.grids import places_of, video_grid_of
from .blocks.replay import Replay, top_k_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_FIRST = 255.0  # of the first frame, as in the released code: 1 - cosine is at most 2


@compressor(
    "evs",
    family="similarity",
    modalities=("video",),
    merges=False,
    source="EVS, arXiv 2510.14624",
    seam="projector_output",
    summary="keeps the first frame and the tokens that changed most since the previous frame",
    plugin=True,
)
@dataclass(frozen=True)
class Evs:
    """Parameters of EVS.

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

    def plugin_attributes(self, case: Case) -> dict[str, Any]:
        """The grid."""
        return {"grid": list(video_grid_of(case, self.grid))}

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        return keep_highest(tokens, self._scores(case, tokens), case.keep)

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """A cosine is rounded relative to 1."""
        import torch

        scores = self._scores(case, tokens)
        kept = select.slots_of(got.kept_indices, case.tokens) >= 0
        return Replay(select.selection(tokens, got.kept_indices), top_k_regret(scores, kept, torch.ones_like(scores)))

    def _scores(self, case: Case, tokens: torch.Tensor) -> torch.Tensor:
        """d [B, N]."""
        import torch

        places = places_of(case, self.grid)
        change = 1 - cosines_before(tokens.float(), places)
        return torch.cat([change.new_full((len(change), places), _FIRST), change], 1)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """One product of consecutive frames, one TopK."""
        n, places = case.tokens, places_of(case, self.grid)
        if case.keep == n:
            return select.emit_every_token(b, case, tokens)
        change = b.op("Sub", 1.0, emit_cosines_before(b, select.emit_float(b, tokens, case), n, places))
        first = select.emit_rows(b, tokens, np.full(places, _FIRST, np.float32))
        return emit_keep_highest(b, case, tokens, b.op("Concat", first, change, axis=1))
