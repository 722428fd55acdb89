"""stack: k consecutive audio frames become one token of k times the channels.

Source: SLAM-ASR (Ma et al. 2024, arXiv 2402.08846) and LLaMA-Omni (Fang et al. 2024, arXiv 2409.06666), before
the projector. For tokens [N, D]:

    slot i = [ x(k i) | x(k i + 1) | ... | x(k i + k - 1) ]        K = floor(N / k): the last N mod k frames are lost

k = 5 turns 50 frames per second into 10. There are k times the channels, so the downstream projector must have been
trained for them. As with pixel_unshuffle nothing is averaged: a slot inherits the position of its first frame, and
`sizes` are 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks.fixed import emit_fixed_map, fixed
from .blocks.select import check_counts, emit_float

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "stack",
    family="transformation",
    modalities=("audio",),
    merges=False,
    source="SLAM-ASR, arXiv 2402.08846",
    seam="projector_input",
    summary="k consecutive frames become one token of k times the channels; needs a projector trained for it",
    fixed=True,
)
@dataclass(frozen=True)
class Stack:
    """Parameters of stack.

    Attributes:
        k: frames per slot, 2 or more.
    """

    k: int = 5

    examples = (Example(Case(7, 5, 3), Case(12, 3, 6), k=2),)

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def width(self, case: Case) -> int:
        """Channels of a slot, k D."""
        return self.k * case.dim

    def check(self, case: Case) -> None:
        """2 <= k <= N, and K = floor(N / k)."""
        if not 2 <= self.k <= case.tokens:
            raise RequestError(f"k = {self.k} frames of {case.tokens}", fix=f"Use --set k=2 to {case.tokens}.")
        check_counts(case, {case.tokens // self.k: f"k={self.k}"}, f"stack with k={self.k}")

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """Drop the remaining frames, reshape."""
        import torch

        whole = tokens[:, : case.keep * self.k]
        position = torch.arange(case.tokens, device=tokens.device)
        slots = torch.where(position < whole.shape[1], position // self.k, -1)
        stacked = whole.reshape(len(tokens), case.keep, self.width(case))
        return fixed(tokens, stacked, position[: whole.shape[1] : self.k], slots, merges=False)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """A Slice if frames are left over, and a Reshape."""
        last, x = case.keep * self.k, emit_float(b, tokens, case)
        if last < case.tokens:
            x = b.op("Slice", x, [0], [last], [1])
        stacked = b.op("Reshape", x, [-1, case.keep, self.width(case)])
        slots = np.full(case.tokens, -1)
        slots[:last] = np.repeat(np.arange(case.keep), self.k)
        return emit_fixed_map(b, case, tokens, stacked, np.arange(case.keep) * self.k, slots, merges=False)
