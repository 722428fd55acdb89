"""Weights in 8 and 4 bits, in graphs made by hand whose numbers are exact: what each rule quantises and leaves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError
from tokexport.graph_passes.precision.blocks import BLOCK, by_column, in_blocks
from tokexport.graph_passes.precision.weight_only import OPSET, WeightOnly
from tokexport.graph_passes.resize.stacked import stacked
from tokexport.runtimes.ort.graph import ort_runner

K, N, ROWS = 2 * BLOCK, 6, 3
RNG = np.random.default_rng(0)


def matrix(rows: int = K, columns: int = N, least: int = -8, dtype: type = np.float32) -> np.ndarray:
    """Whole numbers that four bits hold, the least one in every block: quantised with the scale 1 they are exact."""
    found = RNG.integers(-7, 8, (rows, columns))
    found[::BLOCK] = least
    return found.astype(dtype)


def value(name: str, shape: list[int], kind: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))


def constant(name: str, array: np.ndarray) -> ir.Value:
    found = value(name, list(array.shape), ir.DataType.from_numpy(array.dtype))
    found.const_value = ir.Tensor(array, name=name)
    return found


def graph(inputs: list[ir.Value], nodes: list[ir.Node], shape: list[int], opset: int = 18) -> ir.Model:
    """The last node's output is `y`."""
    y = nodes[-1].outputs[0]
    y.name, y.shape, y.type = "y", ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    constants = {one.name: one for node in nodes for one in node.inputs if one is not None and one.const_value}
    made = ir.Graph(inputs, [y], nodes=nodes, initializers=[*constants.values()], opset_imports={"": opset}, name="toy")
    return ir.Model(made, ir_version=10)


def product(weights: np.ndarray, opset: int = 18) -> ir.Model:
    x = value("x", [1, ROWS, len(weights)])
    return graph([x], [ir.node("MatMul", [x, constant("w", weights)])], [1, ROWS, weights.shape[1]], opset)


def head(weights: np.ndarray, bias: np.ndarray | None = None, **attributes: float) -> ir.Model:
    """A Gemm whose matrix [N, K] is turned."""
    x, more = value("x", [ROWS, weights.shape[1]]), [] if bias is None else [constant("b", bias)]
    node = ir.node("Gemm", [x, constant("w", weights), *more], {"transB": 1, **attributes})
    return graph([x], [node], [ROWS, len(weights)])


def table(rows: np.ndarray, index: str = "input_ids") -> ir.Model:
    ids = value(index, [1, ROWS], ir.DataType.INT64)
    return graph([ids], [ir.node("Gather", [constant("t", rows), ids], {"axis": 0})], [1, ROWS, rows.shape[1]])


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def seen(rows: int = ROWS, columns: int = K) -> np.ndarray:
    """Whole numbers with the largest of int8 in every block, to which ONNX Runtime rounds what it multiplies."""
    found = RNG.integers(-126, 127, (rows, columns))
    found[:, ::BLOCK] = 127
    return found.astype(np.float32)


@pytest.mark.parametrize(("weights", "least"), [("int8", -128), ("int4", -8)])
def test_a_block_has_a_scale_of_its_own(weights, least):
    one = matrix(least=least)
    one[:BLOCK] *= 0.25
    made = in_blocks(one, weights)
    assert np.array_equal(made.scales, np.tile([[0.25, 1]], (N, 1)))
    assert np.array_equal(made.signed() * np.repeat(made.scales.T, BLOCK, 0), one)


def test_half_precision_keeps_its_scales():
    made = in_blocks(matrix(dtype=np.float16), "int4")
    assert made.scales.dtype == np.float16
    assert made.packed.shape == (N, K // BLOCK, BLOCK // 2)


def test_the_library_leaves_the_root_logger_alone(caplog):
    import logging
    import sys

    sys.modules.pop("onnxruntime.quantization.matmul_nbits_quantizer", None)
    before = (logging.getLogger().handlers[:], logging.getLogger().level)
    in_blocks(matrix(), "int4")
    assert (logging.getLogger().handlers, logging.getLogger().level) == before


def test_a_column_of_zeros_has_a_scale():
    numbers, scales = by_column(np.array([[0, 127.0], [0, -63.5]], np.float32))
    assert numbers.tolist() == [[0, 127], [0, -64]]
    assert scales.tolist() == [1, 1]


@pytest.mark.parametrize(("weights", "least"), [("int8", -128), ("int4", -8)])
def test_a_product_is_the_same_product(weights, least):
    one, x = matrix(least=least), seen()
    model = product(one)
    WeightOnly(weights, "MatMulNBits").quantise(model)
    assert kinds(model) == ["MatMulNBits"]
    assert "w" not in model.graph.initializers
    assert np.array_equal(ort_runner(model)({"x": x[None]})["y"][0], x @ one)


@pytest.mark.parametrize(
    ("form", "made"), [("MatMulNBits", ["MatMulNBits"]), ("DequantizeLinear", ["DequantizeLinear", "MatMul"])]
)
def test_a_turned_matrix_and_its_bias(form, made):
    one, x, bias = matrix(), seen(), np.arange(N, dtype=np.float32)
    model = head(np.ascontiguousarray(one.T), bias)
    model.graph.opset_imports[""] = OPSET
    WeightOnly("int4", form).quantise(model)
    assert kinds(model) == [*made, "Add"]
    assert np.array_equal(ort_runner(model)({"x": x})["y"], x @ one + bias)


def test_blocks_of_int4_in_standard_operators():
    one, x = matrix(), seen()
    one[:BLOCK] *= 2
    model = product(one, OPSET)
    WeightOnly("int4", "DequantizeLinear").quantise(model)
    first, second = model.graph
    assert (first.op_type, second.op_type) == ("DequantizeLinear", "MatMul")
    assert {name: a.value for name, a in first.attributes.items()} == {"axis": 0, "block_size": BLOCK}
    numbers, scales = (one.const_value for one in first.inputs)
    assert (numbers.dtype, numbers.shape.numpy()) == (ir.DataType.INT4, (K, N))
    assert scales.shape.numpy() == (K // BLOCK, N)
    assert np.array_equal(numbers.numpy().astype(np.float32), np.where(np.arange(K)[:, None] < BLOCK, one / 2, one))
    np.testing.assert_allclose(ort_runner(model)({"x": x[None]})["y"][0], x @ one, rtol=1e-2)


def test_int8_for_tensorrt_has_a_scale_for_each_column():
    model = product(127 * matrix(least=-1) / 7, 18)
    WeightOnly("int8", "DequantizeLinear").quantise(model)
    first, _ = model.graph
    assert {name: a.value for name, a in first.attributes.items()} == {"axis": 1}
    assert [one.const_value.shape.numpy() for one in first.inputs] == [(K, N), (N,)]


def test_the_table_of_words_and_a_tied_head_are_the_same_bytes():
    rows, by = np.ascontiguousarray(matrix().T), WeightOnly("int4", "MatMulNBits")
    words, tied = table(rows), head(rows)
    by.quantise(words, needs_products=False)
    by.quantise(tied)
    (gather,), (multiply,) = words.graph, tied.graph
    assert (gather.op_type, multiply.op_type) == ("GatherBlockQuantized", "MatMulNBits")
    assert gather.inputs[0].const_value.tobytes() == multiply.inputs[1].const_value.tobytes()
    assert gather.inputs[2].const_value is multiply.inputs[2].const_value
    assert (by.before, by.after) == (K * N * 4, K * N // 2 + K // BLOCK * N * 4)
    ids = np.array([[5, 0, 5]])
    assert np.array_equal(ort_runner(words)({"input_ids": ids})["y"], rows[ids])


@pytest.mark.parametrize(("form", "index"), [("DequantizeLinear", "input_ids"), ("MatMulNBits", "positions")])
def test_a_table_that_stays(form, index):
    model = table(np.ascontiguousarray(matrix().T), index)
    WeightOnly("int4", form).quantise(model, needs_products=False)
    assert kinds(model) == ["Gather"]
    assert [*model.graph.initializers] == ["t"]


@pytest.mark.parametrize(
    "model",
    [
        product(np.ones((BLOCK + 8, N), np.float32)),
        head(matrix().T.copy(), alpha=0.5),
        product(np.ones((2, K, N), np.float32)),
    ],
    ids=["a broken block", "a scaled Gemm", "a batch of matrices"],
)
def test_what_cannot_be_quantised_is_refused(model):
    with pytest.raises(GraphError, match=r"no product reads a constant matrix .*Leave --llm-weights out"):
        WeightOnly("int4", "MatMulNBits").quantise(model)


def test_graphs_with_quantised_weights_take_several_inputs():
    one = matrix()
    model = product(one)
    WeightOnly("int4", "MatMulNBits").quantise(model)
    x = seen(2 * ROWS).reshape(2, ROWS, K)
    assert np.array_equal(ort_runner(stacked(model, 2))({"x": x})["y"], x @ one)
    words = table(np.ascontiguousarray(one.T))
    WeightOnly("int4", "MatMulNBits").quantise(words, needs_products=False)
    ids = np.array([[0, 1, 2], [3, 4, 5]])
    assert np.array_equal(ort_runner(stacked(words, 2))({"input_ids": ids})["y"], one.T[ids])
