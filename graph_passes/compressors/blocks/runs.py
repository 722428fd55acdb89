"""Runs in time: at each position of a video, tokens of consecutive frames that are merged into the first, their head.

Bodies keep the tokens of each position together: [B P, T, ...] for T frames of P positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....lazy import np
from ..base import Case, Compressed
from .select import emit_gather, emit_iota, emit_like, emit_slots, gather, slots_of

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


def run_heads(heads: torch.Tensor) -> torch.Tensor:
    """The position [B, N] of the head of each token's run, for heads [B, T, P]; the first frame is all heads."""
    import torch

    frames, places = (torch.arange(side, device=heads.device) for side in heads.shape[1:])
    last = torch.where(heads, frames[:, None], -1).cummax(1).values
    return (last * len(places) + places).flatten(1)


def run_means(x: torch.Tensor, head: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """At heads the mean [B, N, D] of their runs and how many tokens they have [B, N], for x [B, N, D] float32."""
    import torch

    sums = torch.zeros_like(x).scatter_add(1, head[..., None].expand_as(x), x)
    sizes = torch.zeros_like(x[..., 0]).scatter_add(1, head, torch.ones_like(x[..., 0]))
    return sums / sizes.clamp(min=1)[..., None], sizes


def merge_runs(tokens: torch.Tensor, head: torch.Tensor, kept: torch.Tensor) -> Compressed[torch.Tensor]:
    """Slots at the kept heads [B, K], ascending, each the mean of its run; the other runs are lost."""
    content, sizes = run_means(tokens.float(), head)
    slots = slots_of(kept, tokens.shape[1]).gather(1, head)
    return Compressed(gather(content, kept).to(tokens.dtype), kept, sizes.gather(1, kept), slots)


def emit_by_place(b: Builder, x: ir.Value, frames: int, places: int, dim: int) -> ir.Value:
    """[B, T P, D] -> [B P, T, D]."""
    video = b.op("Reshape", x, [-1, frames, places, dim])
    return b.op("Reshape", b.op("Transpose", video, perm=[0, 2, 1, 3]), [-1, frames, dim])


def emit_by_frame(b: Builder, x: ir.Value, frames: int, places: int) -> ir.Value:
    """[B P, T] -> [B, T, P]."""
    return b.op("Transpose", b.op("Reshape", x, [-1, places, frames]), perm=[0, 2, 1])


def emit_run_frames(b: Builder, heads: ir.Value, frames: int) -> ir.Value:
    """The frame [B P, T] float32 of the head of each token's run, for heads [B P, T] bool."""
    earlier = b.const(np.tri(frames, dtype=bool)[None])
    until = b.op("And", b.op("Unsqueeze", heads, [1]), earlier)
    return b.op("ReduceMax", b.op("Where", until, emit_iota(b, 1, 1, frames), -1.0), [2], keepdims=0)


def emit_run_means(b: Builder, x: ir.Value, head: ir.Value, frames: int) -> tuple[ir.Value, ir.Value]:
    """As `run_means`: [B P, T, D] and [B P, T], for x [B P, T, D] and frames of heads [B P, T], all float32."""
    members = b.cast(b.op("Equal", b.op("Unsqueeze", head, [1]), emit_iota(b, 1, frames, 1)), "float32")
    sizes = b.op("ReduceSum", members, [2], keepdims=1)
    return b.op("MatMul", b.op("Div", members, b.op("Max", sizes, 1.0)), x), b.op("Squeeze", sizes, [2])


def emit_merge_runs(
    b: Builder,
    case: Case,
    frames: int,
    kept: ir.Value,
    head: ir.Value,
    content: ir.Value,
    sizes: ir.Value,
) -> Compressed[ir.Value]:
    """As `merge_runs`, for kept [B, K] float32, frames of heads [B P, T], and what `emit_run_means` returns."""
    n, places = case.tokens, case.tokens // frames
    video = b.op("Reshape", content, [-1, places, frames, case.dim])
    rows = b.op("Reshape", b.op("Transpose", video, perm=[0, 2, 1, 3]), [-1, n, case.dim])
    count = b.op("Reshape", emit_by_frame(b, sizes, frames, places), [-1, n])
    first = b.op("Mul", emit_by_frame(b, head, frames, places), float(places))
    position = b.op("Reshape", b.op("Add", first, emit_iota(b, 1, 1, places)), [-1, n])
    own = emit_slots(b, kept, n, emit_iota(b, 1, case.keep))
    slot = b.op("GatherElements", own, b.cast(position, "int64"), axis=1)
    index = b.cast(kept, "int64")
    return Compressed(
        emit_like(b, emit_gather(b, rows, index), case),
        index,
        b.op("GatherElements", count, index, axis=1),
        b.cast(slot, "int64"),
    )
