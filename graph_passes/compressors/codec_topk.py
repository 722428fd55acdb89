"""codec_topk: keep the tokens on which a video codec would spend its bits.

Source: the patch choice of OneVision-Encoder (arXiv 2602.08683 and its code), which ranks the patches of all frames
by the energy of motion vectors and residuals from a decoder and keeps the top K. Those are not in a model's graph.
Here, as in the RGB variant of EVS (arXiv 2510.14624), the difference from the previous frame replaces the residual. For
tokens X [T, h w, D]:

    energy_tp = |x_tp - x_t-1,p|^2        kept = the K largest, the lowest index first among equals, in order

Frame 0 has no previous frame. With `first` "full" it is kept whole, as the released `keep_first_full_frame` does, and
K - h w tokens come from the others; with "ranked" it is compared with zeros: energy_0p = |x_0p|^2. The released
code picks patches before an encoder that was trained for sparse sets, and returns them by score; this one selects
tokens and keeps the spatial order. Domain: K <= N, and K >= h w with a full first frame; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import emit_keep_highest, keep_highest
from .blocks.frames import check_first_frame, emit_neighbours, neighbours
from .blocks.grids import places_of
from .blocks.replay import Replay, top_k_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_FULL = 3.0e38  # above every energy


@compressor(
    "codec_topk",
    family="attention",
    modalities=("video",),
    merges=False,
    source="OneVision-Encoder, arXiv 2602.08683",
    summary="keeps the tokens that differ most from the previous frame, in energy",
    approximate=True,
)
@dataclass(frozen=True)
class CodecTopk:
    """Parameters of codec_topk.

    Attributes:
        first: whether the first frame is kept whole, or ranked by its own energy.
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    first: Literal["full", "ranked"] = "full"
    grid: str | None = None

    examples = (
        Example(Case(60, 5, 12, grid=(5, 3, 4)), Case(60, 5, 31, grid=(5, 3, 4)), Case(60, 5, 60, grid=(5, 3, 4))),
        Example(
            Case(60, 5, 1, grid=(5, 3, 4)),
            Case(60, 5, 12, grid=(5, 3, 4)),
            Case(60, 5, 31, grid=(5, 3, 4)),
            Case(60, 5, 60, grid=(5, 3, 4)),
            first="ranked",
        ),
    )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """A video, and a K of at least the first frame."""
        places = places_of(case, self.grid)
        check_first_frame(case, places if self.first == "full" else 0)

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        return keep_highest(tokens, self._energy(case, tokens)[0], case.keep)

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """The rounding of a difference is relative to the tokens subtracted."""
        energy, scale = self._energy(case, tokens)
        kept = select.slots_of(got.kept_indices, case.tokens) >= 0
        return Replay(select.selection(tokens, got.kept_indices), top_k_regret(energy, kept, scale))

    def _energy(self, case: Case, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The energy [B, N], and the squared norms it is computed from."""
        import torch

        x, places = tokens.float(), places_of(case, self.grid)
        now, before = neighbours(x, places)
        own = x[:, :places].square().sum(2)
        first = torch.full_like(own, _FULL) if self.first == "full" else own
        size = now.square().sum(2) + before.square().sum(2)
        return torch.cat([first, (now - before).square().sum(2)], 1), torch.cat([own, size], 1)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """One difference of consecutive frames, one TopK."""
        n, places = case.tokens, places_of(case, self.grid)
        if case.keep == n:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        if self.first == "full":
            first = select.emit_rows(b, tokens, np.full(places, _FULL, np.float32))
        else:
            first = select.emit_square_sum(b, b.op("Slice", x, [0], [places], [1]), keepdims=False)
        energy = select.emit_square_sum(b, b.op("Sub", *emit_neighbours(b, x, n, places)), keepdims=False)
        return emit_keep_highest(b, case, tokens, b.op("Concat", first, energy, axis=1))
