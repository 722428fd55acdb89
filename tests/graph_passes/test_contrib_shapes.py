"""Shapes of ONNX Runtime's own operators are those that ONNX Runtime computes."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tokexport.graph_passes.ir_tools.contrib_shapes import contrib_sizes, operand_order

TURNS = ("transA", "transBatchA", "transB", "transBatchB")


@pytest.mark.parametrize("turned", itertools.product((0, 1), repeat=4))
def test_a_fused_product_turns_its_operands_before_it_multiplies_them(turned: tuple[int, ...]) -> None:
    attributes = dict(zip(TURNS, turned))
    proto = helper.make_node("FusedMatMul", ["a", "b"], ["y"], domain="com.microsoft", **attributes)
    a, b = np.arange(2.0 * 3 * 4 * 5), np.arange(2.0 * 3 * 5 * 6)
    straight = a.reshape(2, 3, 4, 5).astype(np.float32), b.reshape(2, 3, 5, 6).astype(np.float32)
    node = ir.from_proto(proto)
    given = [
        np.ascontiguousarray(array.transpose(np.argsort(operand_order(node, side, 4))))
        for side, array in enumerate(straight)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name, x in zip("ab", given)]
    graph = helper.make_graph([proto], "g", ends, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    (product,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, dict(zip("ab", given)))
    np.testing.assert_allclose(product, straight[0] @ straight[1])

    sizes = {value: list(array.shape) for value, array in zip(node.inputs, given)}
    assert contrib_sizes(node, sizes.get)[0][1] == list(product.shape)
