"""One rule per operator family for the proof that a graph works with fewer tokens, and the table of them.

An operator that is not in `RULES` is refused if it reads tokens: a missing rule proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from . import contrib, layout, products
from . import reshape as shape
from .axis import Axes
from .state import Downstream, Pool

Rule = Callable[[Downstream, ir.Node], list[Axes]]


def elementwise(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Operands broadcast. One with the old token count that is not computed from the tokens must be uniform."""
    spans = {i: (0, len(downstream.dims(node, value))) for i, value in enumerate(node.inputs) if value is not None}
    return [products.broadcast(downstream, node, spans)]


def normalise(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """LayerNormalization and similar: statistics over the axes from `axis` on, which must not run over tokens."""
    rank = len(downstream.dims(node, node.inputs[0]))
    at = (node.attributes["axis"].as_int() if "axis" in node.attributes else -1) % rank
    axes = downstream.axes[node.inputs[0]]  # type: ignore[index]
    for i in axes:
        if i >= at:
            downstream.refuse(node, f"it normalises over the token axis {i}")
    return [axes] * len(node.outputs)


def softmax(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Allowed over tokens too: it sums to one for any count. With no other token axis it gives weights of a mean."""
    axes = downstream.axes[node.inputs[0]]  # type: ignore[index]
    rank = len(downstream.dims(node, node.inputs[0]))
    at = (node.attributes["axis"].as_int() if "axis" in node.attributes else -1) % max(rank, 1)
    if node.op_type == "Softmax" and list(axes) == [at]:
        downstream.pools.append(Pool(node, at, axes[at]))
    return [axes]


def channelwise(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Parameters per entry of `axis` (1 by default), which must not run over tokens."""
    rank = len(downstream.dims(node, node.inputs[0]))
    at = (node.attributes["axis"].as_int() if "axis" in node.attributes else 1) % max(rank, 1)
    axes = downstream.axes.get(node.inputs[0], {})  # type: ignore[arg-type]
    parameters = [
        value for value in node.inputs[1:] if value is not None and downstream.dims(node, value) not in ((), (1,))
    ]
    if at in axes and parameters:
        downstream.refuse(node, f"{parameters[0].name} has one entry for each token of axis {at}")
    return [axes]


def reduce(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """A mean or an extremum over tokens is defined for any count."""
    return _reduce(downstream, node, over_tokens=True)


def reduce_sum(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """A sum over tokens grows with their count, and a downstream node may divide by the old count."""
    return _reduce(downstream, node, over_tokens=False)


def _reduce(downstream: Downstream, node: ir.Node, *, over_tokens: bool) -> list[Axes]:
    rank = len(downstream.dims(node, node.inputs[0]))
    axes = downstream.axes[node.inputs[0]]  # type: ignore[index]
    removed = downstream.ints(node, 1) if downstream.has_input(node, 1) else []
    if removed is None:
        downstream.refuse(node, f"its axes {downstream.label(node, 1)} are computed")
    nothing = bool(node.attributes["noop_with_empty_axes"].as_int()) if "noop_with_empty_axes" in node.attributes else 0
    removed = [i % rank for i in removed] or ([] if nothing else list(range(rank)))
    if node.op_type == "ReduceMean":
        downstream.pools += [Pool(node, i, axes[i]) for i in removed if i in axes]
    return [_drop(downstream, node, axes, removed, over_tokens)]


def _drop(downstream: Downstream, node: ir.Node, axes: Axes, removed: Sequence[int], over_tokens: bool) -> Axes:
    for i in removed:
        if i in axes and not over_tokens:
            downstream.refuse(node, f"its result over the token axis {i} depends on their number or their positions")
    if not ("keepdims" in node.attributes and not node.attributes["keepdims"].as_int()):
        return {i: axis for i, axis in axes.items() if i not in removed}
    return {i - sum(g < i for g in removed): axis for i, axis in axes.items() if i not in removed}


def arg_reduce(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """The index of an extremum among tokens would name another token; among channels it stays the same."""
    rank = len(downstream.dims(node, node.inputs[0]))
    at = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % rank
    return [_drop(downstream, node, downstream.axes[node.inputs[0]], [at], False)]  # type: ignore[index]


def along(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """TopK, CumSum and similar: refused along tokens."""
    rank = len(downstream.dims(node, node.inputs[0]))
    if node.op_type == "CumSum":
        axis = next(iter(downstream.ints(node, 1) or ()), None)
    else:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    axes = downstream.axes.get(node.inputs[0], {})  # type: ignore[arg-type]
    if axis is None or axis % rank in axes:
        downstream.refuse(node, f"it works along the token axis {axis}, by position")
    return [axes] * len(node.outputs)


def window(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Conv and Pool: along tokens only with a window of one. Tokens may be the batch axis, but not the channels."""
    axes = downstream.axes.get(node.inputs[0], {})  # type: ignore[arg-type]
    rank = len(downstream.dims(node, node.inputs[0]))
    spatial = rank - 2
    kernel = list(node.attributes["kernel_shape"].as_ints()) if "kernel_shape" in node.attributes else None
    if kernel is None:
        kernel = list(downstream.dims(node, node.inputs[1])[2:])
    ints = {name: list(node.attributes[name].as_ints()) for name in ("strides", "pads") if name in node.attributes}
    strides, pads = ints.get("strides", [1] * spatial), ints.get("pads", [0] * 2 * spatial)
    for i in range(1, len(node.inputs)):
        if downstream.has_input(node, i) and downstream.axes.get(node.inputs[i], {}):  # type: ignore[arg-type]
            downstream.refuse(node, f"{downstream.label(node, i)}, its weights, come from the tokens")
    for i in axes:
        if i == 1 and node.op_type.startswith("Conv"):
            downstream.refuse(node, "it mixes the tokens as channels")
        if i >= 2 and (kernel[i - 2], strides[i - 2], pads[i - 2], pads[i - 2 + spatial]) != (1, 1, 0, 0):
            downstream.refuse(node, f"it slides a window of {kernel[i - 2]} along the token axis {i}")
    return [axes] * len(node.outputs)


def global_pool(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """A mean or maximum over every axis from the third on."""
    axes = downstream.axes[node.inputs[0]]  # type: ignore[index]
    if node.op_type == "GlobalAveragePool":
        downstream.pools += [Pool(node, i, axis) for i, axis in axes.items() if i > 1]
    return [{i: axis for i, axis in axes.items() if i < 2}]


_ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BitShift Cast
    CastLike Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid
    HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow
    Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh
    ThresholdedRelu Where Xor
"""
RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), elementwise),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "Dropout"), softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), normalise),
    **dict.fromkeys(("BatchNormalization", "QuantizeLinear", "DequantizeLinear"), channelwise),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin"), reduce),
    **dict.fromkeys(
        ("ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
        reduce_sum,
    ),
    **dict.fromkeys(("ArgMax", "ArgMin"), arg_reduce),
    **dict.fromkeys(("TopK", "CumSum"), along),
    **dict.fromkeys(("Conv", "ConvInteger", "AveragePool", "MaxPool", "LpPool"), window),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), global_pool),
    "DynamicQuantizeLinear": contrib.dynamic_quantise,
    **dict.fromkeys(("MatMul", "MatMulInteger"), products.matmul),
    "Gemm": products.gemm,
    "Einsum": products.einsum,
    "Attention": products.attention,
    "Transpose": layout.transpose,
    "Squeeze": layout.squeeze,
    "Unsqueeze": layout.unsqueeze,
    "Slice": layout.slice_,
    "Split": layout.split,
    "Concat": layout.concat,
    "Gather": layout.gather,
    "Tile": layout.tile,
    "Pad": layout.pad,
    "Range": layout.range_,
    "Reshape": shape.reshape,
    "Flatten": shape.flatten,
    "Expand": shape.expand,
    "ConstantOfShape": shape.constant_of_shape,
    "Shape": lambda downstream, node: [{}],
    "Size": lambda downstream, node: [{}],
}
# Operators of ONNX Runtime's own domain that its optimiser writes into encoders.
CONTRIB: dict[str, Rule] = {
    **dict.fromkeys(("BiasGelu", "FastGelu", "Gelu", "QuickGelu"), elementwise),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), contrib.skip_norm),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), products.matmul),
    "Attention": contrib.attention,
    "FusedMatMul": products.fused_matmul,
    "MatMulNBits": contrib.nbits,
    "MultiHeadAttention": contrib.multi_head,
}

# Operators that turn a size into a shape: their rule applies even if no operand has a token axis.
SHAPED = frozenset({"Reshape", "Expand", "ConstantOfShape", "Range", "Slice", "Tile", "Pad"})
