"""LLaMA-VID: per frame one token that the text attends to, and a few that are means of the frame.

Source: LLaMA-VID (Li et al. 2023, arXiv 2311.17043), its token generation, as released. For the tokens X [P, D] of a
frame, or of an image, and text rows E [L, D]:

    q_l = Wq e_l + bq, or e_l if ``query`` is off
    context = Wv mean over l of sum_i A_li x_i + bv,  A = softmax over i of q_l . (Wk x_i + bk) / sqrt(D)
    content = means of X over a g x g grid, or W2 gelu(W1 . + b1) + b2 of them with ``mlp``
    slots = context, then content, frame by frame             K = (1 + g^2) T: two tokens per frame with g = 1

Approximate: in the paper a Q-Former reads question and frame and returns the rows E, and Wq projects them from its 768
channels to D. Here the text is an input: its rows are a prompt's embeddings, or with ``query`` off the output of
another graph. If g does not divide the grid, the windows are those of adaptive average pooling, while the released code
has another number of them. For a text of padding alone the context is bv.

Weights come from a file and have the names of released checkpoints, after the prefix model: vlm_att_projector [D, D]
(Wq, there [D, 768]), vlm_att_key_projector [D, D] (Wk), vlm_att_val_projector [D', D] (Wv), with ``mlp`` mm_projector.0
[D', D] and mm_projector.2 [D', D'], each with .weight and .bias.

Slots have no positions, because context has none: kept_indices are equal steps, assignment is -1, and sizes are 1,
because the downstream model was trained with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.adaptive import emit_pooled
from .blocks.fixed import emit_resampled, resampled
from .blocks.grids import frames_of
from .blocks.layers import linear
from .blocks.neural import emit_floats, emit_linear, linear_shapes
from .blocks.projects import Projects
from .blocks.texts import ReadsText, emit_rows_of, rows_of

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_QUERY, _KEY, _VALUE = "vlm_att_projector", "vlm_att_key_projector", "vlm_att_val_projector"
_MLP = ("mm_projector.0", "mm_projector.2")


@compressor(
    "llama_vid",
    family="query",
    modalities=("image", "video"),
    merges=False,
    source="LLaMA-VID, arXiv 2311.17043",
    seam="projector_output",
    summary="per frame one token that the text attends to, and means of the frame; weights from a file",
    approximate=True,
    positions=False,
)
@dataclass(frozen=True)
class LlamaVid(ReadsText, Projects):
    """Parameters of LLaMA-VID.

    Attributes:
        query: whether Wq is part of the compressor, or of the graph that computes the text.
    """

    query: bool = True

    examples = (
        Example(Case(24, 5, 10, grid=(2, 3, 4))),
        Example(Case(24, 5, 2, grid=(4, 6)), mlp=True, channels=7, query=False),
    )

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """As above."""
        query = linear_shapes(_QUERY, case.dim, case.dim) if self.query else {}
        key, value = linear_shapes(_KEY, case.dim, case.dim), linear_shapes(_VALUE, case.dim, self.width(case))
        return query | key | value | self.mlp_shapes(case, _MLP)

    def check(self, case: Case) -> None:
        """An image or a video, and K one more than a square per frame."""
        self.check_projector(case)
        frames, height, width = frames_of(case, self.grid)
        counts = {frames * (1 + g * g): f"a {g}x{g} grid" for g in range(1, min(height, width) + 1)}
        counts = {keep: how for keep, how in counts.items() if keep <= case.tokens}
        select.check_counts(case, counts, "llama_vid")

    def side(self, case: Case) -> int:
        """g."""
        frames, *_ = frames_of(case, self.grid)
        return math.isqrt(case.keep // frames - 1)

    def reference(
        self, case: Case, tokens: torch.Tensor, text: torch.Tensor, **w: torch.Tensor
    ) -> Compressed[torch.Tensor]:
        """The formula above, PyTorch's own pooling."""
        import torch
        from torch.nn import functional as F

        frames, height, width = frames_of(case, self.grid)
        w = {name: value.float() for name, value in w.items()}
        x, (rows, real) = tokens.float().unflatten(1, (frames, -1)), rows_of(text)
        queries = linear(rows, w, _QUERY) if self.query else rows
        gaze = (queries[:, None] @ linear(x, w, _KEY).mT * case.dim**-0.5).softmax(3)
        seen = (gaze @ x * real[:, None, :, None]).sum(2) / real.sum(1).clamp(min=1)[:, None, None]
        context = linear(seen, w, _VALUE)[:, :, None]

        planes = x.mT.unflatten(3, (height, width)).flatten(0, 1)
        means = F.adaptive_avg_pool2d(planes, self.side(case)).flatten(2).mT.unflatten(0, (-1, frames))
        content = self.projected(means, w, _MLP)
        return resampled(case, tokens, torch.cat([context, content], 2).flatten(1, 2))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, text: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """Frames as a batch; the mean over text rows is taken before tokens are mixed."""
        (frames, height, width), side = frames_of(case, self.grid), self.side(case)
        w = emit_floats(b, w, case)
        rows, real, count = emit_rows_of(b, text)
        queries = b.op("Unsqueeze", emit_linear(b, rows, w, _QUERY) if self.query else rows, [1])
        x = b.op("Reshape", select.emit_float(b, tokens, case), [-1, frames, height * width, case.dim])
        keys = b.op("Transpose", emit_linear(b, x, w, _KEY), perm=[0, 1, 3, 2])
        gaze = b.op("Softmax", b.op("Mul", b.op("MatMul", queries, keys), float(case.dim**-0.5)), axis=3)
        share = b.op("Unsqueeze", b.op("Div", b.cast(real, "float32"), count), [1])
        mixed = b.op("MatMul", b.op("ReduceSum", b.op("Mul", gaze, share), [2], keepdims=1), x)
        context = emit_linear(b, mixed, w, _VALUE)

        pooled = emit_pooled(
            b, b.op("Reshape", x, [-1, height * width, case.dim]), (height, width), (side, side), case.dim
        )
        means = b.op("Reshape", pooled, [-1, frames, side * side, case.dim])
        slots = b.op("Concat", context, self.emit_projected(b, means, w, _MLP), axis=2)
        return emit_resampled(b, case, tokens, b.op("Reshape", slots, [-1, case.keep, self.width(case)]))
