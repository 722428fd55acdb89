"""pool1d: the mean of every s consecutive audio frames.

Source: Qwen2-Audio (Chu et al. 2024, arXiv 2407.10759): torch.nn.AvgPool1d(2, stride=2) after the last layer of a
Whisper encoder, before its final norm: 1,500 frames of 30 seconds become 750. For tokens [N, D] it is `pool`
on a line, independent of the model's grid: K = floor(N / s), of several strides for one K the largest is used, K = N is
the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks.select import check_counts
from .pool import Pool

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "pool1d",
    family="transformation",
    modalities=("audio",),
    merges=True,
    source="Qwen2-Audio, arXiv 2407.10759",
    summary="mean of every s consecutive frames; reaches only some counts",
    fixed=True,
)
@dataclass(frozen=True)
class Pool1d:
    """pool1d has no parameters: K determines the stride."""

    examples = (Example(Case(7, 5, 3), Case(12, 3, 1)),)

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """A K that belongs to a stride."""
        strides = self._pool(case).strides((case.tokens,))
        check_counts(case, {keep: f"stride {stride}" for keep, stride in strides.items()}, "pool1d")

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """`pool` on a line."""
        return self._pool(case).reference(case, tokens)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """`pool` on a line."""
        return self._pool(case).onnx(b, case, tokens)

    def _pool(self, case: Case) -> Pool:
        return Pool(grid=str(case.tokens))
