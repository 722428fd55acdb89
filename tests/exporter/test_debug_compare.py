"""What counts as a difference between two values, and what two parts of graphs do otherwise."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.exporter.debug.causes import causes, likeness
from tokexport.exporter.debug.compare import Threshold, compare
from toy_debug import Graph, layer

FP32, FP16 = (Threshold.of("fp32", precision, None, None) for precision in ("fp32", "fp16"))
ROWS = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def ok(a: object, b: object, threshold: Threshold = FP32) -> bool:
    return compare("x", np.asarray(a), np.asarray(b), threshold).ok


def test_one_row_is_enough_to_differ() -> None:
    wrong = ROWS.copy()
    wrong[1] *= 1.01
    assert ok(ROWS, ROWS) and not ok(ROWS, wrong) and ok(ROWS, wrong, FP16)
    assert not ok(ROWS, wrong[:2]) and not ok(ROWS, ROWS.T.copy().reshape(3, 8))


def test_the_threshold_is_that_of_the_less_precise_side_or_the_one_asked_for() -> None:
    assert (FP32.cosine, FP32.norm) == (0.9999, 1e-3) and (FP16.cosine, FP16.norm) == (0.999, 1e-2)
    assert Threshold.of("bf16", "fp16", None, None).precision == "bf16"
    own = Threshold.of("fp32", "fp32", 0.5, None)
    assert (own.cosine, own.norm) == (0.5, 1e-3)


def test_axes_of_length_one_may_be_there_or_not() -> None:
    assert ok(ROWS, ROWS[None]) and ok(ROWS[:, None], ROWS)


@pytest.mark.parametrize("value", [0.0, 3.0, -np.inf, np.nan])
def test_a_value_that_is_one_number_everywhere(value: float) -> None:
    same = np.full((2, 4), value, np.float32)
    assert ok(same, same) and not ok(same, same + 1 if np.isfinite(value) else np.ones((2, 4), np.float32))


def test_rounding_is_no_difference() -> None:
    # One row is a hundred thousandth of the others: nothing but roundings.
    small = np.concatenate([ROWS, ROWS[:1] * 1e-5])
    noise = small + np.random.default_rng(1).standard_normal(small.shape).astype(np.float32) * 1e-6
    assert ok(small, noise) and not ok(small, small + noise[::-1] * 1e-1)


def test_numbers_one_a_row_are_compared_together() -> None:
    column = ROWS[:, :1]
    assert ok(column, column + 1e-6) and not ok(column, -column)
    assert ok(np.float32(2), np.float32(2)) and not ok(np.float32(2), np.float32(3))


@pytest.mark.parametrize("mask", [-1e4, -3.4e38])
def test_a_mask_hides_no_difference(mask: float) -> None:
    hidden = np.tril(np.ones((3, 8), bool))
    a, b = np.where(hidden, ROWS, mask), np.where(hidden, ROWS * 1.1, mask)
    assert ok(a, a) and not ok(a, b)
    # That of float16 is another number, and hides the same.
    assert ok(a, np.where(hidden, ROWS, -65504.0)) and not ok(a, ROWS)


def test_integers_are_equal_or_not() -> None:
    ids = np.arange(6).reshape(2, 3)
    assert ok(ids, ids.astype(np.int32)) and not ok(ids, ids + (ids == 5))


def test_what_is_not_finite_is_counted() -> None:
    b = ROWS.copy()
    b[0, :2], b[1, 0] = np.nan, np.inf
    check = compare("x", ROWS * 1e5, b, FP16)
    assert check.detail.startswith("2 NaN and 1 inf in B, where A reaches") and "beyond the 65504" in check.detail
    assert "in A that B has not" in compare("x", b, ROWS, FP32).detail


def test_causes_name_what_is_set_otherwise() -> None:
    assert causes(layer(), layer()) == []
    # An attribute that is not set is what the operator says; the other epsilon is not.
    unset = layer(epsilon=1e-5)
    del next(node for node in unset.graph if node.op_type == "LayerNormalization").attributes["epsilon"]
    assert causes(layer(epsilon=1e-5), unset) == [] and "epsilon" in causes(layer(epsilon=1e-3), unset)[0]
    assert causes(layer(), layer(masked=False)) == ["only A has Add /causal_scores"]
    assert "kv_length, is 3 in A and 2 in B" in causes(layer(), layer(length=2))[0]


def test_fused_operators_are_spelled_out() -> None:
    def part(*operators: str) -> ir.Model:
        g, value = Graph(), ir.val("x", ir.DataType.FLOAT, (2, 2))
        graph_input = value
        for i, operator in enumerate(operators):
            value = g.op(operator, value, name=f"{operator}_{i}")
        return ir.Model(ir.Graph([graph_input], [value], nodes=g.nodes, opset_imports={"": 18}), ir_version=10)

    assert likeness(part("MatMul", "Add", "Reshape"), part("Gemm")) == 1
    assert likeness(part("MatMul", "Add"), part("Softmax")) == 0
