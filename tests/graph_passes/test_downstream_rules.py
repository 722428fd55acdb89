"""The proof behind a seam, one rule each: norms, reductions and windows."""

from __future__ import annotations

import pytest
from tokexport.errors import GraphError
from tokexport.graph_passes.resize.plan import prove_downstream
from toy_downstream import OLD, accept, model, refuse


def test_layer_norm() -> None:
    accept(model("y = LayerNormalization<axis=-1>(x, w)", "float[8] w = {1,1,1,1,1,1,1,1}"), [1, 4, 8])


def test_layer_norm_over_tokens_is_refused() -> None:
    m = model("y = LayerNormalization<axis=1>(x, w)", f"float[9,8] w = {{{','.join('1' * 72)}}}")
    refuse(m, "LayerNormalization", "normalises over the token axis")


def test_mean_over_tokens() -> None:
    accept(
        model(
            "m = ReduceMean<keepdims=0>(x, a) y = MatMul(m, w)", "int64[1] a = {1}, float[8,1] w = {1,1,1,1,1,1,1,1}"
        ),
        [1, 1],
    )


def test_sum_over_tokens_is_refused() -> None:
    refuse(model("y = ReduceSum<keepdims=0>(x, a)", "int64[1] a = {1}"), "ReduceSum", "depends on their number")


def test_sum_over_channels() -> None:
    accept(model("y = ReduceSum<keepdims=0>(x, a)", "int64[1] a = {2}"), [1, 4])


def test_reduction_before_the_token_axis_shifts_it() -> None:
    accept(model("m = ReduceMax<keepdims=0>(x, a) y = Softmax<axis=0>(m)", "int64[1] a = {0}"), [4, 8])


def test_best_token_is_refused_best_channel_is_not() -> None:
    refuse(model("y = ArgMax<axis=1>(x)", y="int64 y"), "ArgMax")
    accept(model("y = ArgMax<axis=2, keepdims=0>(x)", y="int64 y"), [1, 4])


def test_window_over_tokens_is_refused() -> None:
    body = "t = Transpose<perm=[0,2,1]>(x) y = AveragePool<kernel_shape=[3]>(t)"
    refuse(model(body), "AveragePool", "window of 3")


def test_window_of_one_is_a_linear_layer() -> None:
    body = "t = Transpose<perm=[0,2,1]>(x) y = Conv<kernel_shape=[1]>(t, w)"
    accept(model(body, f"float[2,8,1] w = {{{','.join('1' * 16)}}}"), [1, 2, 4])


def test_tokens_as_channels_are_refused() -> None:
    refuse(model("y = Conv<kernel_shape=[1]>(x, w)", f"float[2,9,1] w = {{{','.join('1' * 18)}}}"), "Conv", "channels")


def test_topk_and_cumsum_along_tokens_are_refused() -> None:
    refuse(model("y, i = TopK<axis=1>(x, k)", "int64[1] k = {2}"), "TopK")
    refuse(model("y = CumSum(x, a)", "int64 a = {1}"), "CumSum")
    accept(model("y = CumSum(x, a)", "int64 a = {2}"), [1, 4, 8])


def test_parameters_per_token_are_refused() -> None:
    weights = ", ".join(f"float[9] {name} = {{1,1,1,1,1,1,1,1,1}}" for name in "abcd")
    refuse(
        model("y = BatchNormalization(x, a, b, c, d)", weights), "BatchNormalization", "a has one entry for each token"
    )


def test_squeeze_of_all_ones_would_take_a_single_token() -> None:
    m = model("y = Squeeze(x)")
    with pytest.raises(GraphError, match="single token"):
        prove_downstream(m, m.graph.inputs[0], 1, OLD, 1)
    accept(model("y = Squeeze(x)"), [4, 8])
