"""Models that only carry weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def model(**tensors: np.ndarray) -> ir.Model:
    """y = x + the sum of the first elements of all tensors, kept as initializers."""
    x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    total, nodes, values = x, [], []
    for name, array in tensors.items():
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        values.append(value)
        nodes.append(ir.node("ReduceSum", [value], {"keepdims": 0}))
        nodes.append(ir.node("Add", [total, nodes[-1].outputs[0]]))
        total = nodes[-1].outputs[0]
    total.name, total.shape, total.type = "y", ir.Shape([1]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [total], nodes=nodes, initializers=values, opset_imports={"": 18}, name="sums")
    return ir.Model(graph, ir_version=10)


def ones(count: int, value: float = 1) -> np.ndarray:
    return np.full(count, value, np.float32)
