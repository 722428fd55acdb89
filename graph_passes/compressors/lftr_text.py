"""lftr_text: of each frame, or of an image, the tokens most similar to the text.

Source: LFTR (arXiv 2501.17391), its spatial part with a text, between projector and language model (`lftr` has the
temporal part, and the spatial one without a text). For tokens X [T, P, D] of T frames, text rows Z [L, D], K slots:

    s_tp = mean over l of x_tp . z_l
    each frame keeps the tokens of its largest s, unchanged, in spatial order; all others are lost

K is divided evenly among the frames. Tokens that are not a video are one frame. Domain: any K from 1 to N;
K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.grids import video_grid_of
from .blocks.replay import Replay, top_k_regret
from .blocks.shares import emit_highest_of_each, emit_positions, highest_of_each, positions_of, share
from .blocks.texts import ReadsText, emit_mean_product, mean_product

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "lftr_text",
    family="query",
    modalities=("image", "video"),
    merges=False,
    source="LFTR, arXiv 2501.17391",
    seam="projector_output",
    summary="keeps of each frame, or of an image, the tokens most similar to the text",
)
@dataclass(frozen=True)
class LftrText(ReadsText):
    """Parameters of lftr_text.

    Attributes:
        grid: FRAMESxHEIGHTxWIDTH of the tokens of a video, if the model does not define it.
    """

    grid: str | None = None

    examples = (
        Example(
            Case(12, 5, 1, grid=(3, 2, 2)),
            Case(24, 16, 11, grid=(2, 3, 4)),
            Case(24, 40, 23, grid=(4, 6, 1)),
            Case(24, 6, 7, grid=(4, 6)),
        ),
    )

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        self.rooms(case)
        select.check_keep(case)

    def rooms(self, case: Case) -> list[int]:
        """Tokens of each frame."""
        if self.grid is None and (case.grid is None or len(case.grid) < 3):
            return [case.tokens]
        frames, height, width = video_grid_of(case, self.grid)
        return [height * width] * frames

    def reference(self, case: Case, tokens: torch.Tensor, text: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        rooms = self.rooms(case)
        scores, _ = mean_product(tokens, text)
        best = highest_of_each(scores.unflatten(1, (len(rooms), -1)), share(case.keep, rooms))
        return select.selection(tokens, positions_of(best.flatten(1)))

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], text: torch.Tensor) -> Replay:
        """Frame by frame; the number each keeps does not depend on rounding."""
        import torch

        rooms = self.rooms(case)
        kept = select.slots_of(got.kept_indices, case.tokens) >= 0
        parts = [each.unflatten(1, (len(rooms), -1)) for each in (kept, *mean_product(tokens, text))]
        right = (parts[0].sum(2) == torch.tensor(share(case.keep, rooms), device=kept.device)).all(1)
        chosen, scores, scale = (part.flatten(0, 1) for part in parts)
        regret = top_k_regret(scores, chosen, scale).view(-1, len(rooms)).amax(1)
        return Replay(select.selection(tokens, got.kept_indices), regret.masked_fill(~right.cpu(), float("inf")))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, text: ir.Value) -> Compressed[ir.Value]:
        """One TopK over rows of frames."""
        n, k, rooms = case.tokens, case.keep, self.rooms(case)
        if k == n:
            return select.emit_every_token(b, case, tokens)
        scores = emit_mean_product(b, select.emit_float(b, tokens, case), text)
        table = b.op("Reshape", scores, [-1, len(rooms), rooms[0]])
        best = b.op("Reshape", emit_highest_of_each(b, table, share(k, rooms), rooms[0]), [-1, n])
        return select.emit_selection(b, case, tokens, emit_positions(b, best, k, n))
