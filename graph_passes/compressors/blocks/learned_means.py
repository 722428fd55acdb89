"""Means of all tokens whose weights a small network computes from each token, as in TokenLearner 1.1 and TTM.

For x [B, n, D] and K means: softmax over tokens of W2 gelu(W1 norm(x) + b1) + b2, [B, n, K], GELU by its tanh form, are
the weights of each mean. Names of the arrays, each after a prefix: norm [D], up [H, D], down [K, H], with their biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .layers import layer_norm, linear
from .neural import emit_gelu_tanh, emit_layer_norm, emit_linear, linear_shapes, norm_shapes

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder

EPSILON = 1e-6  # of the layer norms of JAX


def means_shapes(prefix: str, dim: int, hidden: int, count: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array."""
    layers = linear_shapes(f"{prefix}up", dim, hidden) | linear_shapes(f"{prefix}down", hidden, count)
    return norm_shapes(f"{prefix}norm", dim) | layers


def learned_means(x: torch.Tensor, w: Mapping[str, torch.Tensor], prefix: str) -> torch.Tensor:
    """x [B, n, D] float32 -> [B, K, D]."""
    from torch.nn import functional as F

    hidden = linear(layer_norm(x, w, f"{prefix}norm", EPSILON), w, f"{prefix}up")
    return linear(F.gelu(hidden, approximate="tanh"), w, f"{prefix}down").softmax(1).mT @ x


def emit_learned_means(b: Builder, x: ir.Value, w: Mapping[str, ir.Value], prefix: str) -> ir.Value:
    """As `learned_means`."""
    normed = emit_layer_norm(b, x, w, f"{prefix}norm", EPSILON)
    hidden = emit_gelu_tanh(b, emit_linear(b, normed, w, f"{prefix}up"))
    maps = b.op("Transpose", emit_linear(b, hidden, w, f"{prefix}down"), perm=[0, 2, 1])
    return b.op("MatMul", b.op("Softmax", maps, axis=2), x)
