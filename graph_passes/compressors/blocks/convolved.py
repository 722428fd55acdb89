"""Layers of connectors that convolve a grid of tokens: convolutions without bias, each followed by a layer norm.

References have the grid last, [B, C, h, w]. Bodies have the channels last, [B, h w, C], where a 1 x 1 convolution is a
MatMul and the norm needs no Transpose. Kernels are PyTorch's, [out, in, 1, 1] or, depthwise, [C, 1, 3, 3].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .layers import layer_norm
from .neural import emit_layer_norm, emit_linear, norm_shapes

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder

EPSILON = 1e-5


def pointwise_shapes(kernel: str, norm: str, wide: int, into: int) -> dict[str, tuple[int, ...]]:
    """The arrays of a 1 x 1 convolution and its norm."""
    return {f"{kernel}.weight": (into, wide, 1, 1), **norm_shapes(norm, into)}


def depthwise_shapes(kernel: str, norm: str, wide: int) -> dict[str, tuple[int, ...]]:
    """The arrays of a depthwise 3 x 3 convolution and its norm."""
    return {f"{kernel}.weight": (wide, 1, 3, 3), **norm_shapes(norm, wide)}


def squeeze_shapes(name: str, wide: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """The arrays of `excited`."""
    return {
        f"{name}.fc1.weight": (hidden, wide, 1, 1),
        f"{name}.fc1.bias": (hidden,),
        f"{name}.fc2.weight": (wide, hidden, 1, 1),
        f"{name}.fc2.bias": (wide,),
    }


# PyTorch


def convolved(x: torch.Tensor, w: Mapping[str, torch.Tensor], kernel: str, norm: str, stride: int = 1) -> torch.Tensor:
    """Convolve [B, C, h, w], padded with zeros by half the kernel, depthwise if the kernel is; then norm."""
    from torch.nn import functional as F

    weight = w[f"{kernel}.weight"]
    groups = x.shape[1] // weight.shape[1]
    mixed = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
    return layer_norm(mixed.movedim(1, -1), w, norm, EPSILON).movedim(-1, 1)


def excited(
    x: torch.Tensor,
    w: Mapping[str, torch.Tensor],
    name: str,
    act: Callable[[torch.Tensor], torch.Tensor],
    gate: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Squeeze and excitation: each channel of [B, C, h, w] times gate(W2 act(W1 mean + b1) + b2)."""
    from torch.nn import functional as F

    mean = x.mean((2, 3), keepdim=True)
    hidden = act(F.conv2d(mean, w[f"{name}.fc1.weight"], w[f"{name}.fc1.bias"]))
    return x * gate(F.conv2d(hidden, w[f"{name}.fc2.weight"], w[f"{name}.fc2.bias"]))


# ONNX


def emit_flat_kernels(
    b: Builder, w: Mapping[str, ir.Value], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, ir.Value]:
    """The weights; those of a 1 x 1 convolution as a linear layer's, [out, in]."""
    flat = dict(w)
    for name, shape in shapes.items():
        if shape[2:] == (1, 1):
            flat[name] = b.op("Reshape", w[name], list(shape[:2]))
    return flat


def emit_pointwise(b: Builder, x: ir.Value, w: Mapping[str, ir.Value], kernel: str, norm: str) -> ir.Value:
    """A 1 x 1 convolution of [B, n, C] by a flat kernel, and its norm."""
    mixed = b.op("MatMul", x, b.op("Transpose", w[f"{kernel}.weight"], perm=[1, 0]))
    return emit_layer_norm(b, mixed, w, norm, EPSILON)


def emit_depthwise(
    b: Builder,
    x: ir.Value,
    w: Mapping[str, ir.Value],
    kernel: str,
    norm: str,
    layout: tuple[int, int, int],
    stride: int = 1,
) -> ir.Value:
    """A depthwise 3 x 3 convolution of [B, h w, C], and its norm; layout is (h, w, C)."""
    height, width, wide = layout
    plane = b.op("Transpose", b.op("Reshape", x, [-1, height, width, wide]), perm=[0, 3, 1, 2])
    mixed = b.op(
        "Conv",
        plane,
        w[f"{kernel}.weight"],
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        strides=[stride, stride],
        group=wide,
    )
    places = -(-height // stride) * -(-width // stride)
    rows = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 3, 1]), [-1, places, wide])
    return emit_layer_norm(b, rows, w, norm, EPSILON)


def emit_excited(
    b: Builder,
    x: ir.Value,
    w: Mapping[str, ir.Value],
    name: str,
    act: Callable[[ir.Value], ir.Value],
    gate: Callable[[ir.Value], ir.Value],
) -> ir.Value:
    """As `excited`, for [B, n, C] and flat kernels."""
    hidden = act(emit_linear(b, b.op("ReduceMean", x, [1], keepdims=1), w, f"{name}.fc1"))
    return b.op("Mul", x, gate(emit_linear(b, hidden, w, f"{name}.fc2")))
