"""uniform: keep K evenly spaced tokens of the sequence.

Position i of K is floor((2 i + 1) N / (2 K)): the middle of the i-th of K equal parts, for any K from 1 to N. The
order is reading order, so a grid is sampled along its rows. K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "uniform",
    family="baseline",
    modalities=("image", "video", "audio"),
    merges=False,
    source="tokexport",
    summary="keeps evenly spaced tokens",
    fixed=True,
)
@dataclass(frozen=True)
class Uniform:
    """uniform has no parameters."""

    examples = (Example(Case(13, 5, 4)),)

    def signals(self) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def kept(self, case: Case) -> np.ndarray:
        """Ascending positions [K] int64."""
        return (2 * np.arange(case.keep, dtype=np.int64) + 1) * case.tokens // (2 * case.keep)

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """Index."""
        import torch

        kept = torch.from_numpy(self.kept(case)).to(tokens.device)
        return select.selection(tokens, kept.repeat(tokens.shape[0], 1))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """One Gather; everything else is constant."""
        return select.emit_fixed(b, case, tokens, self.kept(case))
