"""Farthest-point sampling: each next point is the token farthest from all points so far.

Distances are squared L2 on raw features. PyTorch takes them as sum((x - p)^2), and so does a body that picks few
points. One that picks many takes those of all pairs at once (`squares`), for which near-duplicates are equal. Papers
start at a random token; a graph cannot, so the start is a rule. A token is never picked twice, even if all remaining
ones repeat a point (distance 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ....lazy import np
from .select import emit_argmax, emit_iota, emit_rows, emit_square_sum
from .squares import squares_to

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder

Start = Literal["first", "max_norm", "farthest_from_mean"]


def start_scores(x: torch.Tensor, start: Start) -> torch.Tensor:
    """Scores [B, N] whose largest (the lowest index among equals) is the first point, for x [B, N, D] float32."""
    import torch

    if start == "first":
        return -torch.arange(x.shape[1], device=x.device).expand(x.shape[:2]).float()
    return x.norm(dim=2) if start == "max_norm" else (x - x.mean(1, keepdim=True)).norm(dim=2)


def farthest_points(x: torch.Tensor, k: int, start: Start) -> torch.Tensor:
    """Positions [B, k] int64 of k points in the order they are picked, for x [B, N, D] float32."""
    import torch

    row = torch.arange(x.shape[0], device=x.device)
    picks = [start_scores(x, start).argmax(1)]
    nearest, room = x.new_full(x.shape[:2], torch.inf), torch.empty_like(x)
    for _ in range(k - 1):
        nearest = torch.minimum(nearest, squares_to(x, x[row, picks[-1]], room))
        nearest[row, picks[-1]] = -1
        picks.append(nearest.argmax(1))
    return torch.stack(picks, 1)


def emit_start(b: Builder, x: ir.Value, n: int, start: Start) -> ir.Value:
    """The first point's position [B, 1, 1] float32, for x [B, n, D] float32."""
    if start == "first":
        return emit_rows(b, x, np.zeros((1, 1), np.float32))
    if start == "farthest_from_mean":
        x = b.op("Sub", x, b.op("ReduceMean", x, [1], keepdims=1))
    return emit_argmax(b, b.op("Sqrt", emit_square_sum(b, x, keepdims=True)), 1, (1, n, 1))


def emit_farthest(b: Builder, x: ir.Value, n: int, k: int, start: Start) -> tuple[ir.Value, ir.Value, list[ir.Value]]:
    """Few farthest points, each with exact distances of all tokens, unrolled: ten nodes a pick.

    Args:
        b: the builder.
        x: [B, n, D] float32.
        n: tokens.
        k: points to pick.
        start: rule for the first.

    Returns:
        Positions [B, k] float32 in the order they are picked, the points [B, k, D], and the squared distance
        [B, n, 1] of every token to each point but the last.
    """
    picks, points, distances = [emit_start(b, x, n, start)], [], []
    nearest = None
    for step in range(k):
        points.append(b.op("GatherND", x, b.cast(picks[-1], "int64"), batch_dims=1))
        if step == k - 1:
            break
        distances.append(emit_square_sum(b, b.op("Sub", x, points[-1]), keepdims=True))
        nearest = b.op("Min", nearest, distances[-1]) if nearest is not None else distances[-1]
        nearest = b.op("Where", b.op("Equal", picks[-1], emit_iota(b, 1, n, 1)), -1.0, nearest)
        picks.append(emit_argmax(b, nearest, 1, (1, n, 1)))
    positions = b.op("Squeeze", b.op("Concat", *picks, axis=1), [2])
    return positions, b.op("Concat", *points, axis=1), distances


def emit_picks(b: Builder, square: ir.Value, first: ir.Value, n: int, k: int) -> ir.Value:
    """Many farthest points, of distances between all tokens, unrolled: three nodes a pick.

    Args:
        b: the builder.
        square: [B, n, n] float32, below 0 only to itself.
        first: [B, 1, 1] int64, where to start.
        n: tokens.
        k: points to pick.

    Returns:
        Positions [B, k] float32 in the order they are picked.
    """
    picks, near = [first], None
    while len(picks) < k:
        row = b.op("GatherND", square, picks[-1], batch_dims=1)
        near = row if near is None else b.op("Min", near, row)
        # No Cast if ArgMax breaks ties to the lowest index: a node less.
        if b.exact_ties:
            picks.append(b.cast(emit_argmax(b, near, 2, (1, 1, n)), "int64"))
        else:
            picks.append(b.op("ArgMax", near, axis=2, keepdims=1))
    return b.cast(b.op("Squeeze", b.op("Concat", *picks, axis=1), [2]), "float32")
