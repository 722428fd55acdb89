"""conv1d: a strided convolution along time, learned.

Source: SpeechVerse (Das et al. 2024, arXiv 2405.08295) puts one after a speech encoder to reach about 12.5 tokens
per second; Baichuan-Audio (arXiv 2502.17239) downsamples Whisper by four in the same way, with a residual. For tokens
[N, D], a kernel [D', D, k], a bias [D'] and a stride s <= k, without padding:

    slot i = bias + sum_j kernel[:, :, j] x(s i + j)        K = floor((N - k) / s) + 1

Weights: weight, the kernel, and bias. Without a file the kernel is the mean of its k frames, which needs D' = D. A
slot inherits the position of the middle frame that it reads, the earlier of two. Frame n is assigned to slot
floor(n / s), or to the last slot if that one reads it; the others are lost. `sizes` are 1: the weight of a slot is
learned. The papers state neither kernel nor stride: k = s = 4 turns 50 frames per second into 12.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks.fixed import emit_fixed_map, fixed
from .blocks.select import check_counts, emit_float
from .blocks.weights import ReadsWeights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "conv1d",
    family="transformation",
    modalities=("audio",),
    merges=False,
    source="SpeechVerse, arXiv 2405.08295",
    seam="projector_input",
    summary="a learned strided convolution along time; weights from a file, or the mean",
    approximate=True,
)
@dataclass(frozen=True)
class Conv1d(ReadsWeights):
    """Parameters of conv1d.

    Attributes:
        kernel: k, frames that a slot reads.
        stride: s, frames from one slot to the next; at most k.
        channels: D'; 0: those of the tokens.
    """

    kernel: int = 4
    stride: int = 4
    channels: int = 0

    examples = (Example(Case(7, 5, 3), Case(12, 3, 5), kernel=3, stride=2),)

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def width(self, case: Case) -> int:
        """D'."""
        return self.channels or case.dim

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """As above."""
        wide = self.width(case)
        return {"weight": (wide, case.dim, self.kernel), "bias": (wide,)}

    def initial(self, case: Case) -> dict[str, np.ndarray]:
        """The mean."""
        mean = np.repeat(np.eye(case.dim, dtype=np.float32)[..., None] / self.kernel, self.kernel, axis=2)
        return {"weight": mean, "bias": np.zeros(case.dim, np.float32)}

    def check(self, case: Case) -> None:
        """1 <= s <= k <= N, the K that follows from them, and D' = D without a weights file."""
        if not 1 <= self.stride <= self.kernel <= case.tokens:
            raise RequestError(
                f"kernel={self.kernel} and stride={self.stride} do not fit {case.tokens} frames",
                fix="1 <= stride <= kernel <= number of frames, for example --set kernel=4 --set stride=4.",
            )
        if self.channels < 0 or (not self.weights and self.width(case) != case.dim):
            raise RequestError(
                f"channels={self.channels} for tokens of {case.dim} channels, without weights for them",
                fix="Add --set weights=FILE.safetensors, or leave channels out.",
            )
        keep = (case.tokens - self.kernel) // self.stride + 1
        what = f"conv1d with kernel={self.kernel} and stride={self.stride}"
        check_counts(case, {keep: f"stride {self.stride}"}, what)

    def reference(
        self, case: Case, tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> Compressed[torch.Tensor]:
        """PyTorch's own convolution."""
        import torch
        from torch.nn import functional as F

        content = F.conv1d(tokens.float().transpose(1, 2), weight.float(), bias.float(), self.stride).transpose(1, 2)
        position = torch.arange(case.tokens, device=tokens.device)
        last = (case.keep - 1) * self.stride
        slots = torch.where(position < last + self.kernel, (position // self.stride).clamp(max=case.keep - 1), -1)
        kept = position[(self.kernel - 1) // 2 :: self.stride][: case.keep]
        return fixed(tokens, content, kept, slots, merges=False)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, weight: ir.Value, bias: ir.Value) -> Compressed[ir.Value]:
        """One Conv between two Transposes."""
        x, kernel, offset = (emit_float(b, value, case) for value in (tokens, weight, bias))
        rows = b.op("Transpose", x, perm=[0, 2, 1])
        mixed = b.op("Conv", rows, kernel, offset, kernel_shape=[self.kernel], strides=[self.stride])
        starts = np.arange(case.keep) * self.stride
        slots = np.full(case.tokens, -1)
        slots[: starts[-1] + self.kernel] = case.keep - 1
        slots[: starts[-1]] = np.repeat(np.arange(case.keep - 1), self.stride)
        content = b.op("Transpose", mixed, perm=[0, 2, 1])
        return emit_fixed_map(b, case, tokens, content, starts + (self.kernel - 1) // 2, slots, merges=False)
