"""pixel_unshuffle: each block of r x r tokens becomes one token of r^2 times the channels.

Source: InternVL (Chen et al. 2024, arXiv 2404.16821, section 3.1), `pixel_shuffle` in its code. For tokens X on a grid
[h, w], row by row, and D channels:

    slot (y, x) = [ X(ry, rx) | X(ry, rx + 1) | ... | X(ry + r - 1, rx + r - 1) ]    row by row, each token contiguous

Order ``v2`` (their `ps_version`) orders the slots row by row. ``v1``, of their first checkpoints, omits the last
transposition, so the slots are column by column. Neither is torch.nn.PixelUnshuffle, which interleaves the channels.

tokens [B, K, r^2 D] with K = N / r^2, and nothing else; h and w must be multiples of r. There are r^2 times the
channels, so the downstream projector must have been trained for r. A slot inherits the position of the top-left token
of its block, and all tokens of the block are assigned to it. Nothing is averaged, so `sizes` are 1 and there is no size
bias: the weight of a slot is learned by that projector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks.grids import grid_of
from .blocks.select import emit_rows

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

Version = Literal["v2", "v1"]


@compressor(
    "pixel_unshuffle",
    family="transformation",
    modalities=("image",),
    merges=False,
    source="InternVL, arXiv 2404.16821",
    seam="projector_input",
    summary="r x r neighbouring tokens become one token of r^2 times the channels; needs a projector trained for it",
    fixed=True,
)
@dataclass(frozen=True)
class PixelUnshuffle:
    """Parameters of pixel_unshuffle.

    Attributes:
        r: side of a block, 2 or more.
        version: order of the slots: v2 row by row, v1 column by column.
        grid: HEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    r: int = 2
    version: Version = "v2"
    grid: str | None = None

    examples = (
        Example(Case(24, 5, 6, grid=(4, 6))),
        Example(Case(24, 5, 6, grid=(4, 6)), version="v1"),
    )

    @property
    def ascending(self) -> bool:
        """Whether slots are in the order of their positions."""
        return self.version == "v2"

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def width(self, case: Case) -> int:
        """Channels of a slot, r^2 D."""
        return self.r**2 * case.dim

    def check(self, case: Case) -> None:
        """A grid of two dimensions, both multiples of r >= 2, and K = N / r^2."""
        if self.r < 2:
            raise RequestError(f"r = {self.r} forms no blocks", fix="Use --set r=2 or more.")
        grid = grid_of(case, self.grid)
        where = f"{case.tokens} tokens of {case.dim} channels"
        if len(grid) != 2:
            raise RequestError(
                f"pixel_unshuffle needs a grid of rows and columns, and these tokens are a line of {grid[0]}",
                where=where,
                fix="For sound use pool or kcenter_merge.",
            )
        h, w = grid
        if h % self.r or w % self.r:
            whole = [r for r in range(2, min(grid) + 1) if h % r == w % r == 0]
            raise RequestError(
                f"a grid of {h}x{w} cannot be divided into blocks of {self.r}x{self.r}",
                where=where,
                fix=f"Values of r that divide it: {', '.join(map(str, whole)) or 'none'}.",
            )
        keep = case.tokens // self.r**2
        if case.keep != keep:
            raise RequestError(
                f"pixel_unshuffle with r={self.r} keeps {keep} of {case.tokens} tokens, not {case.keep}",
                where=where,
                fix=f"Use --keep {keep}, which is --ratio {self.r**2 - 1}/{self.r**2}.",
            )

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """InternVL's own steps on [B, h, w, D], and the same steps on the positions."""
        import torch

        h, w = grid_of(case, self.grid)
        place = torch.arange(case.tokens, device=tokens.device).reshape(1, h, w, 1)
        blocks = self._shuffle(place)[0]
        slot = torch.arange(case.keep, device=tokens.device)[:, None].expand_as(blocks)
        assignment = torch.empty(case.tokens, dtype=torch.int64, device=tokens.device)
        assignment[blocks.flatten()] = slot.flatten()
        batch = tokens.shape[0]
        return Compressed(
            self._shuffle(tokens.unflatten(1, (h, w))),
            blocks[:, 0].repeat(batch, 1),
            torch.ones(batch, case.keep, device=tokens.device),
            assignment.repeat(batch, 1),
        )

    def _shuffle(self, x: torch.Tensor) -> torch.Tensor:
        """[B, h, w, C] -> [B, h w / r^2, r^2 C]."""
        batch, h, w, channels = x.shape
        r = self.r
        x = x.reshape(batch, h, w // r, channels * r).permute(0, 2, 1, 3)
        x = x.reshape(batch, w // r, h // r, channels * r * r)
        if self.version == "v2":
            x = x.permute(0, 2, 1, 3)
        return x.flatten(1, 2)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """One Transpose between two Reshapes; everything else is constant."""
        h, w = grid_of(case, self.grid)
        r, down, across = self.r, h // self.r, w // self.r
        blocks = b.op("Reshape", tokens, [-1, down, r, across, r, case.dim])
        order = [0, 1, 3, 2, 4, 5] if self.version == "v2" else [0, 3, 1, 2, 4, 5]
        whole = b.op("Reshape", b.op("Transpose", blocks, perm=order), [-1, case.keep, self.width(case)])

        y, x = np.divmod(np.arange(case.tokens), w)
        slot = y // r * across + x // r if self.version == "v2" else x // r * down + y // r
        corner = np.flatnonzero((y % r == 0) & (x % r == 0))
        kept = corner[np.argsort(slot[corner])]
        return Compressed(
            whole,
            emit_rows(b, tokens, kept.astype(np.int64)),
            emit_rows(b, tokens, np.ones(case.keep, np.float32)),
            emit_rows(b, tokens, slot.astype(np.int64)),
        )
