"""Values of a PyTorch module and of a graph that knows no module paths, matched by what kind of layer gives them."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

import onnx_ir as ir

from .sides import Side, Value, numbers

_OF_MODULES = {"Linear": "linear", "Conv1d": "conv", "Conv2d": "conv", "Conv3d": "conv", "LayerNorm": "norm"}
_OF_NODES = {"Gemm": "linear", "Conv": "conv", "FusedConv": "conv", "LayerNormalization": "norm"}
_OF_NODES |= {"RMSNormalization": "norm", "SimplifiedLayerNormalization": "norm", "SkipLayerNormalization": "norm"}


def by_kind(a: Side, b: Side) -> Iterator[tuple[str, str]]:
    """Pairs of a module and a graph, in the order in which both compute; none of two modules, or of two graphs."""
    if (a.model is None) == (b.model is None):
        return
    ours, theirs = ([(value, kind) for value in side.in_order() if (kind := _kind(side, value))] for side in (a, b))
    keys = [[(kind, numbers(value.shape)) for value, kind in values] for values in (ours, theirs)]
    for block in SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_matching_blocks():
        for i in range(block.size):
            yield ours[block.a + i][0].name, theirs[block.b + i][0].name


def _kind(side: Side, value: Value) -> str:
    if side.model is None:
        return _OF_MODULES.get(value.op) or ("norm" if value.op.endswith("RMSNorm") else "")
    node = side.producers.get(value.name)
    if node is None or node.outputs[0].name != value.name:
        return ""
    if node.op_type == "MatMul":
        # The bias is a part of the layer.
        alone = not any(_is_bias(user) for user in node.outputs[0].consumers())
        return "linear" if alone and _weight(node.inputs[1]) else ""
    return "linear" if _is_bias(node) else _OF_NODES.get(node.op_type, "")


def _is_bias(node: ir.Node) -> bool:
    """Whether a node adds weights to a product with weights."""
    if node.op_type != "Add":
        return False
    for x, y in (node.inputs, reversed(node.inputs)):
        product = x.producer() if x is not None and _weight(y) else None
        if product is not None and product.op_type == "MatMul" and _weight(product.inputs[1]):
            return True
    return False


def _weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()
