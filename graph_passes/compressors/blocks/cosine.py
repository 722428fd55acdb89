"""Cosine similarity, for references and for bodies. With a token of zeros it is 0, even to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .select import emit_square_sum

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder

_SHORTEST = 1e-12  # the least norm that torch's normalize divides by


def cosines(x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    """[B, N, M] of x [B, N, D] to y [B, M, D] float32, or to itself."""
    from torch.nn.functional import normalize

    return normalize(x, dim=2) @ normalize(x if y is None else y, dim=2).mT


def emit_unit(b: Builder, x: ir.Value) -> ir.Value:
    """The rows of x [B, N, D] float32, normalised to length 1."""
    length = b.op("Sqrt", emit_square_sum(b, x, keepdims=True))
    return b.op("Div", x, b.op("Max", length, _SHORTEST))


def emit_cosines(b: Builder, x: ir.Value, y: ir.Value | None = None) -> ir.Value:
    """[B, N, M] of x [B, N, D] to y [B, M, D] float32, or to itself."""
    unit = emit_unit(b, x)
    other = unit if y is None else emit_unit(b, y)
    return b.op("MatMul", unit, b.op("Transpose", other, perm=[0, 2, 1]))
