"""Tiny float32 graphs by hand, for the tests of precision and ranges."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

FLOAT = ir.DataType.FLOAT


class Toy:
    """A graph in a few lines: `toy.op` gives values their types by inference at the end."""

    def __init__(self, *shape: int, name: str = "x") -> None:
        self.x = ir.val(name, FLOAT, shape)
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def const(self, name: str, array: object) -> ir.Value:
        data = np.asarray(array)
        data = data.astype(np.float32) if data.dtype == np.float64 else data
        value = ir.Value(name=name, const_value=ir.tensor(data, name=name))
        value.shape, value.type = ir.Shape(data.shape), ir.TensorType(ir.DataType.from_numpy(data.dtype))
        self.initializers.append(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, name: str, **attributes: object) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes, name=f"n_{name}")
        node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]

    def model(self, *outputs: ir.Value, opset: int = 18) -> ir.Model:
        from onnx_ir.passes.common import ShapeInferencePass

        graph = ir.Graph(
            [self.x], outputs, nodes=self.nodes, initializers=self.initializers, opset_imports={"": opset}, name="toy"
        )
        model = ir.Model(graph, ir_version=10)
        ShapeInferencePass(strict_mode=True)(model)
        return model


def block() -> ir.Model:
    """A residual block with one head: LayerNormalization, attention, GELU."""
    rng = np.random.default_rng(0)
    t = Toy(1, 6, 8)

    def weight(name: str, *shape: int) -> ir.Value:
        return t.const(name, rng.standard_normal(shape) / np.sqrt(shape[-1]))

    normal = t.op("LayerNormalization", t.x, weight("g", 8), weight("b", 8), name="normal")
    q, k, v = (t.op("MatMul", normal, weight(f"w{name}", 8, 8), name=name) for name in "qkv")
    scores = t.op("MatMul", q, t.op("Transpose", k, name="kt", perm=[0, 2, 1]), name="scores")
    scaled = t.op("Mul", scores, t.const("scale", 8**-0.5), name="scaled")
    mixed = t.op("MatMul", t.op("Softmax", scaled, name="weights", axis=-1), v, name="mixed")
    residual = t.op("Add", t.x, mixed, name="residual")
    hidden = t.op("Gemm", t.op("Reshape", residual, t.const("rows", np.array([6, 8])), name="flat"), weight("wi", 8, 8),
                  name="hidden")  # fmt: skip
    return t.model(t.op("Relu", hidden, name="y"))
