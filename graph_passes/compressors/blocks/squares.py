"""Squared distances of all pairs: from differences in PyTorch, and in a body by one MatMul.

The MatMul's rounding is relative to |x|^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .select import emit_argmax, emit_iota, emit_square_sum

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder

ROUNDING = 2.0e-6  # of |x|^2 + |y|^2: a smaller |x - y|^2 is rounding error


def square_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """|x - y|^2 [B, N, M] of x [B, N, D] to y [B, M, D], exactly 0 for equal ones."""
    import torch

    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def squares_to(x: torch.Tensor, point: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """|x - p|^2 [B, N] of x [B, N, D] to a point [B, D] of each batch element; `room`, as large as x, is written over.

    Of many points: what an allocator keeps behind the differences to each would be as much as all of them.
    """
    import torch

    return torch.sub(x.detach(), point.detach()[:, None], out=room).square_().sum(2)


def emit_near_zero(b: Builder, x: ir.Value, n: int) -> ir.Value:
    """x [B, n, D] float32 minus the token nearest to their mean.

    The result is at most twice as far from 0 as after subtracting the mean itself. But tokens of few digits, such as
    integers, stay exact, so equal distances stay equal and ties go to the lowest index, not by rounding.
    """
    off = b.op("Sub", x, b.op("ReduceMean", x, [1], keepdims=1))
    nearest = emit_argmax(b, b.op("Neg", emit_square_sum(b, off, keepdims=True)), 1, (1, n, 1))
    return b.op("Sub", x, b.op("GatherND", x, b.cast(nearest, "int64"), batch_dims=1))


def emit_square_distances(b: Builder, x: ir.Value) -> ir.Value:
    """|x - y|^2 [B, N, N] of x [B, N, D] float32 near 0; 0 where it is only rounding error, as on the diagonal.

    N^2 entries cost as much to walk as to multiply, so the lengths are two more channels of the MatMul. What is but
    rounding is known by |x|^2 alone: only of equal lengths can a difference be that small.
    """
    length = emit_square_sum(b, x, keepdims=True)
    one = b.op("Add", b.op("Mul", length, 0.0), 1.0)
    left = b.op("Concat", b.op("Mul", x, -2.0), length, one, axis=2)
    right = b.op("Concat", x, one, length, axis=2)
    square = b.op("MatMul", left, b.op("Transpose", right, perm=[0, 2, 1]))
    apart = b.op("Greater", square, b.op("Mul", length, 2 * ROUNDING))
    return b.op("Where", apart, square, 0.0)


def emit_distances_between(b: Builder, x: ir.Value, n: int) -> ir.Value:
    """As `emit_square_distances`, of n tokens, and -1 to itself: below all others, which tells a token from its equals.

    So of the tokens around points a point is the nearest to itself, and is not picked again.
    """
    itself = b.op("Equal", emit_iota(b, 1, n, 1), emit_iota(b, 1, 1, n))
    return b.op("Where", itself, -1.0, emit_square_distances(b, x))
