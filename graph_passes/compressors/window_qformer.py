"""window_qformer: a Q-Former on each audio window.

Source: SALMONN (Tang et al. 2024, arXiv 2310.13289): Whisper and BEATs frames side by side at 50 per second,
consecutive windows of 17 frames (0.33 s), one query through two layers in each: 88 tokens for 30 seconds. For N tokens,
windows of W and Q queries:

    slots = the Q-Former of each of floor(N / W) windows, in order        K = Q floor(N / W): the last N mod W are lost

Weights as in qformer_layers.py. The position of query j of a window is the middle of the j-th of Q equal
parts of it, and every token of a part is assigned to its query. sizes are 1, because the downstream model was trained
with the slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.fixed import emit_fixed_map, fixed
from .blocks.neural import emit_floats
from .blocks.qformer_layers import HasQueryLayers

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "window_qformer",
    family="query",
    modalities=("audio",),
    merges=False,
    source="SALMONN, arXiv 2310.13289",
    summary="a Q-Former on each window of frames; weights from a file",
    heavy="a network of two layers over all tokens",
)
@dataclass(frozen=True)
class WindowQformer(HasQueryLayers):
    """Parameters of the windowed Q-Former.

    Attributes:
        window: W, how many frames one window holds.
        queries: Q, how many queries each window has.
    """

    layers: int = 2
    window: int = 17
    queries: int = 1

    examples = (Example(Case(13, 5, 4), layers=3, heads=2, channels=6, window=5, queries=2),)

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """Those of Q queries."""
        return self.of_queries(self.queries).shapes(case.dim)

    def check(self, case: Case) -> None:
        """1 <= Q <= W <= N, K = Q floor(N / W), and valid layer sizes."""
        if not 1 <= self.queries <= self.window <= case.tokens:
            raise RequestError(
                f"queries={self.queries} in windows of {self.window} of {case.tokens} frames",
                fix="1 <= queries <= window <= number of frames, as --set window=17 --set queries=1.",
            )
        self.of_queries(self.queries).check()
        count = case.tokens // self.window
        what = f"window_qformer with window={self.window} and queries={self.queries}"
        select.check_counts(case, {count * self.queries: f"{count} windows"}, what)

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """Windows as a batch."""
        import torch

        count = case.tokens // self.window
        windows = tokens.float()[:, : count * self.window].unflatten(1, (count, self.window)).flatten(0, 1)
        read = self.of_queries(self.queries).run(windows, {name: value.float() for name, value in w.items()})
        position = torch.arange(case.tokens, device=tokens.device)
        place = position % self.window
        slots = position // self.window * self.queries + place * self.queries // self.window
        slots = torch.where(position < count * self.window, slots, -1)
        members = [(slots == slot).nonzero()[:, 0] for slot in range(case.keep)]
        kept = torch.stack([own[(len(own) - 1) // 2] for own in members])
        return fixed(tokens, read.reshape(len(tokens), case.keep, -1), kept, slots, merges=False)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """Windows as a batch."""
        count = case.tokens // self.window
        x = select.emit_float(b, tokens, case)
        if count * self.window < case.tokens:
            x = b.op("Slice", x, [0], [count * self.window], [1])
        windows = b.op("Reshape", x, [-1, self.window, case.dim])
        read = self.of_queries(self.queries).emit(b, windows, emit_floats(b, w, case))
        # Part j of a window begins at the first position with at least j / Q of the window before it.
        begins = -(-np.arange(self.queries + 1) * self.window // self.queries)
        first = np.arange(count)[:, None] * self.window
        kept = (first + (begins[:-1] + begins[1:] - 1) // 2).ravel()
        slots = np.full(case.tokens, -1)
        slots[: count * self.window] = np.repeat(np.arange(case.keep), np.tile(np.diff(begins), count))
        content = b.op("Reshape", read, [-1, case.keep, self.channels])
        return emit_fixed_map(b, case, tokens, content, kept, slots, merges=False)
