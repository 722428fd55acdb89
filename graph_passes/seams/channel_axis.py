"""Along which axis the channels of a stream run: [B, N, D], or with tokens last, [B, D, N]."""

from __future__ import annotations

import onnx_ir as ir

from ..ir_tools.token_flow import NORMS, channels_first, weight_product
from ..ir_tools.walk import FLOATS, Walk, dims

_PLACEWISE = NORMS | {"Add", "Cast", "Div", "Dropout", "Erf", "Gelu", "Identity", "Mul", "Relu", "Sub"}


def tokens_last(walk: Walk, value: ir.Value) -> str:
    """Why `value` is not [B, N, D] but [B, D, N]; empty where weights give channels along its last axis.

    The products with weights that a residual sum is made of say so: a linear layer writes channels along the last axis,
    a convolution along the second. Mixers have both.
    """
    if len(dims(value) or ()) != 3:
        return ""
    found: set[bool] = set()
    todo, seen = [(value, False)], {(value, False)}
    while todo:
        step, turned = todo.pop()
        node = step.producer()
        if node is None or len(dims(step) or ()) != 3 or step.dtype not in FLOATS:
            continue
        if weight_product(walk, node) or node.op_type == "Conv":
            found.add((node.op_type == "Conv") is not turned)
            continue
        if not (node.op_type in _PLACEWISE or channels_first(node)):
            continue
        for x in walk.inputs(node):
            state = (x, turned is not channels_first(node))
            if state not in seen:
                seen.add(state)
                todo.append(state)
    if found != {True}:
        return ""
    return (
        "tokens run along the last axis ([B, D, N]); a compressor takes [B, N, D]. End the model with "
        ".transpose(1, 2), export it again, and name its output: --seam tensor:OUTPUT"
    )
