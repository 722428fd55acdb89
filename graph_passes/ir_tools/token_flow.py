"""How single nodes treat the token axis of [B, n, D]: per token, dropping leading tokens, or mixing tokens."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from .walk import FLOATS, Walk, attribute, dims, integers, scalar

# fmt: off
_ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "BiasGelu", "Cast", "Celu", "Clip", "DequantizeLinear", "Div", "Dropout",
    "DynamicQuantizeLinear", "Elu", "Equal",
    "Erf", "Exp", "FastGelu", "Gelu", "Greater", "HardSigmoid", "HardSwish", "Identity", "IsNaN", "LeakyRelu", "Less",
    "Log", "Max", "Min", "Mish", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "QuickGelu",
    "Reciprocal", "Relu", "Rsqrt", "Selu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Swish", "Tanh", "ThresholdedRelu",
    "Where",
})
# fmt: on
NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
QUANTISERS = ("DequantizeLinear", "QuantizeLinear")
_CHANNELWISE = NORMS | {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
_REDUCE = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceSumSquare"})


def weight_product(walk: Walk, node: ir.Node) -> bool:
    """Whether the node multiplies tokens with a learned matrix: the way a linear layer is exported."""
    if node.op_type not in (
        "MatMul",
        "Gemm",
        "FusedMatMul",
        "MatMulNBits",
        "MatMulInteger",
        "QLinearMatMul",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
    ):
        return False
    left, right = node.inputs[0], node.inputs[1]
    return not walk.constant(left) and right is not None and walk.learned(right)


def keeps_tokens(walk: Walk, node: ir.Node) -> bool:
    """Whether every output token is computed only from the input tokens at its own position.

    Reshapes and transposes that only split or join heads keep tokens. False if a shape is unknown.
    """
    op = node.op_type
    if node.domain not in ("", "com.microsoft"):
        return False
    if _non_float(node) or op in _ELEMENTWISE or op in _CHANNELWISE or weight_product(walk, node):
        return True
    source, target = dims(node.inputs[0]) if node.inputs else None, dims(node.outputs[0])
    if source is None or target is None:
        return False
    if op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        return _layout_only(source, target)
    if op == "Conv":
        return pointwise(node) and _turned_back(node)
    if op == "Transpose":
        perm: Any = attribute(node, "perm", tuple(reversed(range(len(source)))))
        if channels_first(node):
            return _from_pointwise(node) or _turned_back(node)
        return tuple(perm) in ((0, 1, 2), (0, 2, 1, 3), tuple(range(len(source))))
    if op in ("Slice", "Split", "Concat", "Softmax") or op in _REDUCE:
        last = len(source) - 1
        axes = _axes(node, len(source))
        return axes == (last,) and last >= 1
    return False


def pointwise(node: ir.Node) -> bool:
    """Whether this is a Conv over [B, D, N] of width one: a linear layer of each token, as in heads for CTC."""
    shape = dims(node.inputs[1]) if node.op_type == "Conv" and len(node.inputs) > 1 else None
    if shape is None or len(shape) != 3 or shape[2] != 1:
        return False
    plain = {"strides": (1,), "pads": (0, 0)}
    return all(tuple(attribute(node, name, value)) == value for name, value in plain.items())  # type: ignore[arg-type]


def channels_first(node: ir.Node) -> bool:
    """Whether the node turns [B, N, D] into [B, D, N], or back."""
    return node.op_type == "Transpose" and tuple(attribute(node, "perm", ())) == (0, 2, 1)  # type: ignore[arg-type]


def only_pointwise(node: ir.Node) -> bool:
    """Whether a node turns [B, N, D] into [B, D, N] for convolutions of width one and nothing else."""
    users = list(node.outputs[0].consumers())
    return channels_first(node) and bool(users) and all(pointwise(user) for user in users)


def _turned_back(node: ir.Node) -> bool:
    """Whether every way from [B, D, N] passes what works on each token alone and ends in [B, N, D]."""
    todo, seen = [node], {node}
    while todo:
        value = todo.pop().outputs[0]
        users = list(value.consumers())
        if not users or value.is_graph_output():
            return False
        for user in users:
            if user in seen or (channels_first(user) and user is not node):
                continue
            if not (pointwise(user) or user.op_type in _ELEMENTWISE):
                return False
            seen.add(user)
            todo.append(user)
    return True


def _from_pointwise(node: ir.Node) -> bool:
    """Whether this turns back what came through a convolution of width one."""
    step, passed = node.inputs[0].producer() if node.inputs[0] is not None else None, False
    while step is not None and (pointwise(step) or step.op_type in _ELEMENTWISE):
        passed = passed or pointwise(step)
        step = step.inputs[0].producer() if step.inputs[0] is not None else None
    return passed and step is not None and channels_first(step)


def token_slice(node: ir.Node) -> tuple[int, int] | None:
    """(start, end) of a Slice [B, start:end, D] or [start:end, D] of step 1, both within the tokens; else None."""
    source = dims(node.inputs[0]) if node.inputs else None
    if node.op_type != "Slice" or source is None or len(source) not in (2, 3):
        return None
    if _axes(node, len(source)) != (len(source) - 2,):
        return None
    start, end = integers(node.inputs[1]), integers(node.inputs[2])
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else (1,)
    n = source[-2]
    if start is None or end is None or steps != (1,) or n is None:
        return None
    first, last = (max(0, min(i + n if i < 0 else i, n)) for i in (start[0], end[0]))
    return (first, last) if first < last else None


def prefix_dropped(node: ir.Node) -> int:
    """Leading tokens a Slice [B, p:, D] drops; 0 for any other node."""
    span = token_slice(node)
    source = dims(node.inputs[0]) if node.inputs else None
    return span[0] if span is not None and source is not None and span[1] == source[-2] else 0


def ends_tokens(node: ir.Node, prefix: int = 1) -> bool:
    """Whether the node reads one summary from the tokens (a prefix token, a mean), so its output holds no tokens.

    Such a node works with any number of tokens.
    """
    source = dims(node.inputs[0]) if node.inputs else None
    if source is None or len(source) != 3:
        return False
    axes = _axes(node, 3)
    if node.op_type in _REDUCE:
        return axes == (1,)
    if node.op_type == "Gather":
        index = scalar(node.inputs[1])
        return axes == (1,) and index is not None and 0 <= index < max(prefix, 1)
    span = token_slice(node)
    return span is not None and span[1] <= max(prefix, 1)


def reduced_axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """The axes that a Reduce or Arg operator reduces; None where they are not constant, or all of them."""
    if node.op_type in ("ArgMax", "ArgMin"):
        return (int(attribute(node, "axis", 0)) % rank,)  # type: ignore[call-overload]
    axes = attribute(node, "axes", None)
    raw = tuple(axes) if axes else integers(node.inputs[1]) if len(node.inputs) > 1 else None  # type: ignore[arg-type]
    return None if raw is None else tuple(axis % rank for axis in raw)


def batch_first(node: ir.Node) -> bool:
    """Whether the node turns [N, B, D] into [B, N, D]."""
    return node.op_type == "Transpose" and tuple(attribute(node, "perm", ())) == (1, 0, 2)  # type: ignore[arg-type]


def _non_float(node: ir.Node) -> bool:
    """Whether the node computes shapes, indices or masks, which carry no token values."""
    return node.op_type == "Shape" or all(
        output.dtype is not None and output.dtype not in FLOATS for output in node.outputs
    )


def _layout_only(source: tuple[int | None, ...], target: tuple[int | None, ...]) -> bool:
    ranks = {len(source), len(target)}
    if source == target:
        return True
    if ranks == {2, 4}:
        # Optimisers join heads and batch in one step: [B, N, H, d] and [B N, H d].
        flat, split = sorted((source, target), key=len)
        return None not in (*flat, *split) and flat == (split[0] * split[1], split[2] * split[3])  # type: ignore[operator]
    if ranks == {2, 3}:
        return source[-1] == target[-1]
    return ranks == {3, 4} and (source[:2] == target[:2] or source[-2:] == target[-2:])


def _axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    if node.op_type == "Slice":
        raw = integers(node.inputs[3]) if len(node.inputs) > 3 else None
    elif node.op_type in _REDUCE:
        raw = reduced_axes(node, rank)
    else:
        default = -1 if node.op_type == "Softmax" else 0
        raw = (int(attribute(node, "axis", default)),)  # type: ignore[call-overload]
    return None if raw is None else tuple(axis % rank for axis in raw)
