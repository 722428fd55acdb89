"""Layers of learned compressors as nodes, in float32. Weights have PyTorch's layout: a linear layer's is [out, in]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ....lazy import np
from ..base import Case
from .select import emit_float

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...ir_tools.builder import Builder


def emit_floats(b: Builder, values: Mapping[str, ir.Value], case: Case) -> dict[str, ir.Value]:
    """Weights by name, in float32."""
    return {name: emit_float(b, value, case) for name, value in values.items()}


def emit_linear(b: Builder, x: ir.Value, w: Mapping[str, ir.Value], name: str) -> ir.Value:
    """x [..., in] -> [..., out], by `name`.weight [out, in] and `name`.bias [out]."""
    return b.op("Add", b.op("MatMul", x, b.op("Transpose", w[f"{name}.weight"], perm=[1, 0])), w[f"{name}.bias"])


def emit_layer_norm(b: Builder, x: ir.Value, w: Mapping[str, ir.Value], name: str, epsilon: float) -> ir.Value:
    """Layer norm over the last axis, by `name`.weight and `name`.bias."""
    return b.op("LayerNormalization", x, w[f"{name}.weight"], w[f"{name}.bias"], axis=-1, epsilon=epsilon)


def emit_gelu(b: Builder, x: ir.Value) -> ir.Value:
    """x Phi(x), by the error function."""
    half = b.op("Mul", x, 0.5)
    return b.op("Mul", half, b.op("Add", b.op("Erf", b.op("Mul", x, float(np.sqrt(0.5)))), 1.0))


def emit_gelu_tanh(b: Builder, x: ir.Value) -> ir.Value:
    """The approximation of GELU by a tanh."""
    cube = b.op("Mul", b.op("Mul", b.op("Mul", x, x), x), 0.044715)
    inner = b.op("Mul", b.op("Add", x, cube), float(np.sqrt(2 / np.pi)))
    return b.op("Mul", b.op("Mul", x, 0.5), b.op("Add", b.op("Tanh", inner), 1.0))


def emit_silu(b: Builder, x: ir.Value) -> ir.Value:
    """x sigmoid(x)."""
    return b.op("Mul", x, b.op("Sigmoid", x))


def emit_hard_sigmoid(b: Builder, x: ir.Value) -> ir.Value:
    """min(max(x / 6 + 1 / 2, 0), 1)."""
    return b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)


def emit_hard_swish(b: Builder, x: ir.Value) -> ir.Value:
    """x times its hard sigmoid."""
    return b.op("Mul", x, emit_hard_sigmoid(b, x))


def emit_mlp(b: Builder, x: ir.Value, w: Mapping[str, ir.Value], names: tuple[str, str]) -> ir.Value:
    """The second linear layer of GELU of the first."""
    return emit_linear(b, emit_gelu(b, emit_linear(b, x, w, names[0])), w, names[1])


def emit_attention(
    b: Builder,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    w: Mapping[str, ir.Value],
    name: str,
    heads: int,
    d: int,
) -> ir.Value:
    """Attention of many heads: query [B, Q, *], key and value [B, n, *] -> [B, Q, d].

    Weights: `name`.q, .k, .v and .out, each a linear layer to d channels.
    """
    parts = [emit_linear(b, x, w, f"{name}.{part}") for part, x in (("q", query), ("k", key), ("v", value))]
    q, k, v = (b.op("Reshape", part, [0, 0, heads, d // heads]) for part in parts)
    scaled = b.op("Mul", b.op("Transpose", q, perm=[0, 2, 1, 3]), float((d // heads) ** -0.5))
    weights = b.op("Softmax", b.op("MatMul", scaled, b.op("Transpose", k, perm=[0, 2, 3, 1])), axis=-1)
    mixed = b.op("Transpose", b.op("MatMul", weights, b.op("Transpose", v, perm=[0, 2, 1, 3])), perm=[0, 2, 1, 3])
    return emit_linear(b, b.op("Reshape", mixed, [0, 0, d]), w, f"{name}.out")


def linear_shapes(name: str, wide: int, into: int) -> dict[str, tuple[int, ...]]:
    """The arrays of a linear layer."""
    return {f"{name}.weight": (into, wide), f"{name}.bias": (into,)}


def mlp_shapes(names: tuple[str, str], wide: int, into: int) -> dict[str, tuple[int, ...]]:
    """The arrays of `emit_mlp`, with as many hidden as output channels."""
    return linear_shapes(names[0], wide, into) | linear_shapes(names[1], into, into)


def norm_shapes(name: str, wide: int) -> dict[str, tuple[int, ...]]:
    """The arrays of a layer norm."""
    return {f"{name}.weight": (wide,), f"{name}.bias": (wide,)}


def attention_shapes(name: str, query: int, key: int, d: int) -> dict[str, tuple[int, ...]]:
    """The arrays of `emit_attention`."""
    widths = (("q", query), ("k", key), ("v", key), ("out", d))
    return {key: shape for part, wide in widths for key, shape in linear_shapes(f"{name}.{part}", wide, d).items()}
