"""LLaVA-Mini: C x C learned queries, each at a position of a coarse grid, read the image by one cross-attention.

Source: LLaVA-Mini (Zhang et al. 2025, arXiv 2501.03895), its compression module, as released. For tokens on a grid
[h, w] and queries Q [C^2, D]:

    P [C^2, D] = positions of the queries: for row y and column x sin and cos of x w_j, then of y w_j,
                 w_j = 10000^(-4 j / D), j < D / 4
    P' [N, D]  = P enlarged from C x C to h x w by bicubic interpolation
    slots = attention(queries norm(Q) + P, keys norm(X) + P', values norm(X))          K = C^2

one attention of `heads` heads; the model's projector follows. The released code requires a square grid, and C = 1 or 2.

This is the smaller part of LLaVA-Mini. Its pre-fusion, four layers of the language model over all projected tokens, the
slots and the text, is not included. There the text tokens read what the slots lose, so a model trained with it needs
it.

Weights come from a file and have the names of released checkpoints, after the prefix model.compressor: query [C^2, D];
attn.in_proj_weight [3 D, D] (queries, keys, values), attn.in_proj_bias [3 D]; attn.out_proj [D, D], ln_q [D] and ln_kv
[D] with their biases. pos_embed, which is P, is computed.

Slots have no positions: kept_indices are equal steps, assignment is -1, and sizes are 1, because the downstream model
was trained with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.fixed import emit_resampled, resampled
from .blocks.grids import picture_of
from .blocks.layers import attention, layer_norm
from .blocks.neural import emit_attention, emit_floats, emit_layer_norm, norm_shapes
from .blocks.weights import ReadsWeights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_EPSILON = 1e-5
_SHARPNESS = -0.75  # of the cubic kernel, as PyTorch's


@compressor(
    "llava_mini",
    family="query",
    modalities=("image",),
    merges=False,
    source="LLaVA-Mini, arXiv 2501.03895",
    summary="C x C learned queries with positions read the image, without the paper's pre-fusion; weights from a file",
    positions=False,
)
@dataclass(frozen=True)
class LlavaMini(ReadsWeights):
    """Parameters of LLaVA-Mini's compression.

    Attributes:
        heads: of the attention.
        grid: HEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    heads: int = 8
    grid: str | None = None

    examples = (Example(Case(30, 8, 9, grid=(6, 5)), heads=2),)

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """As above."""
        d = case.dim
        attn = {"attn.in_proj_weight": (3 * d, d), "attn.in_proj_bias": (3 * d,)}
        out = {"attn.out_proj.weight": (d, d), "attn.out_proj.bias": (d,)}
        return {"query": (case.keep, d), **norm_shapes("ln_q", d), **norm_shapes("ln_kv", d), **attn, **out}

    def arrays(self, case: Case) -> dict[str, np.ndarray]:
        """From the file; its one array for queries, keys and values is split into three."""
        read = super().arrays(case)
        parts = {kind: np.split(read.pop(f"attn.in_proj_{kind}"), 3) for kind in ("weight", "bias")}
        split = {f"attn.{part}.{kind}": parts[kind][i] for i, part in enumerate("qkv") for kind in parts}
        out = {f"attn.out.{kind}": read.pop(f"attn.out_proj.{kind}") for kind in parts}
        return {**read, **split, **out}

    def check(self, case: Case) -> None:
        """An image, K a square, and channels that are a multiple of 4 and of the heads."""
        picture_of(case, self.grid, "llava_mini")
        if self.heads < 1 or case.dim % 4 or case.dim % self.heads:
            raise RequestError(
                f"{case.dim} channels in {self.heads} heads",
                where="method 'llava_mini'",
                fix="Channels must be a multiple of 4, for the positions, and of --set heads=HEADS.",
            )
        sides = range(1, math.isqrt(case.tokens) + 1)
        select.check_counts(case, {side * side: f"{side}x{side}" for side in sides}, "llava_mini")

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """PyTorch's own interpolation and attention."""
        import torch
        from torch.nn import functional as F

        grid, side = picture_of(case, self.grid, "llava_mini"), math.isqrt(case.keep)
        w = {name: value.float() for name, value in w.items()}
        line = torch.arange(side, dtype=torch.float64)
        waves = 10000.0 ** -(torch.arange(case.dim // 4, dtype=torch.float64) / (case.dim // 4))
        angles = line[:, None] * waves
        each = torch.cat([angles.sin(), angles.cos()], 1)
        table = torch.cat([each.repeat(side, 1), each.repeat_interleave(side, 0)], 1).float().to(tokens.device)
        plane = table.T.unflatten(1, (side, side))[None]
        larger = F.interpolate(plane, grid, mode="bicubic", align_corners=False)[0].flatten(1).T

        x = layer_norm(tokens.float(), w, "ln_kv", _EPSILON)
        queries = (layer_norm(w["query"], w, "ln_q", _EPSILON) + table).expand(len(x), -1, -1)
        return resampled(case, tokens, attention(queries, x + larger, x, w, "attn", self.heads))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """One attention; the keys' positions are a small matrix times those of the queries."""
        grid, side = picture_of(case, self.grid, "llava_mini"), math.isqrt(case.keep)
        table = b.const(places_of(side, case.dim).astype(np.float32))
        enlarging = np.kron(*(cubic_weights(side, into) for into in grid)).astype(np.float32)
        w = emit_floats(b, w, case)
        x = emit_layer_norm(b, select.emit_float(b, tokens, case), w, "ln_kv", _EPSILON)
        queries = b.op("Add", emit_layer_norm(b, w["query"], w, "ln_q", _EPSILON), table)
        batch = b.op("Concat", b.op("Shape", x, start=0, end=1), [case.keep, case.dim], axis=0)
        queries = b.op("Expand", b.op("Unsqueeze", queries, [0]), batch)
        keys = b.op("Add", x, b.op("MatMul", enlarging, table))
        return emit_resampled(b, case, tokens, emit_attention(b, queries, keys, x, w, "attn", self.heads, case.dim))


def places_of(side: int, dim: int) -> np.ndarray:
    """P [side^2, dim] float64, row by row."""
    y, x = (axis.reshape(-1, 1) for axis in np.mgrid[:side, :side])
    waves = 10000.0 ** (-4 * np.arange(dim // 4) / dim)
    return np.concatenate([np.sin(x * waves), np.cos(x * waves), np.sin(y * waves), np.cos(y * waves)], axis=1)


def cubic_weights(side: int, into: int) -> np.ndarray:
    """Weights [into, side] float64 of the cubic interpolation from `side` to `into` positions; edges repeat."""
    centre = (np.arange(into) + 0.5) * side / into - 0.5
    first = np.floor(centre).astype(int) - 1
    weights = np.zeros((into, side))
    for i in range(4):
        far = np.abs(centre - (first + i))
        near = ((_SHARPNESS + 2) * far - (_SHARPNESS + 3)) * far**2 + 1
        tail = _SHARPNESS * (((far - 5) * far + 8) * far - 4)
        weights[np.arange(into), np.clip(first + i, 0, side - 1)] += np.where(far <= 1, near, tail)
    return weights
