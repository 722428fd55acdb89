"""Outputs that may count the tokens and do not follow them are refused by name, and may be dropped."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, run
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.compress import compress

N, D = 12, 8


def lengths(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("Div", toy.input("length", 1, dtype=ir.DataType.INT64), toy.const([4]), name="beside")


def frame_mask(toy: Toy, x: ir.Value) -> ir.Value:
    length = toy.input("length", 1, 1, dtype=ir.DataType.INT64)
    return toy.op("Less", toy.const(np.arange(N)[None]), length, name="beside")


def positions(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("Identity", toy.const(np.arange(N)[None]), name="beside")


def earlier_layer(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("Tanh", x, name="beside")


def channels_first(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("Transpose", x, perm=[0, 2, 1], name="beside")


def batch_second(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("Transpose", x, perm=[1, 0, 2], name="beside")


def grid(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("Reshape", x, toy.const([1, 3, 4, D]), name="beside")


BESIDE = (lengths, frame_mask, positions, earlier_layer, channels_first, batch_second, grid)


def encoder(beside) -> ir.Model:
    toy = Toy()
    x = toy.op("MatMul", toy.input("frames", 1, N, D), toy.weight(D, D))
    other = beside(toy, x)
    x = toy.block(toy.block(x, D, 2), D, 2)
    pooled = toy.op("ReduceMax", x, toy.const([1]), keepdims=0, name="pooled")
    return toy.output(toy.op("Identity", x, name="y"), other, pooled)


@pytest.mark.parametrize("beside", BESIDE)
def test_what_does_not_follow_the_tokens_is_refused_by_name(beside) -> None:
    with pytest.raises(GraphError, match=r"'beside'.*old count.*--drop-output beside"):
        compress(encoder(beside), "kcenter_merge", keep=4)


@pytest.mark.parametrize("beside", BESIDE)
def test_the_cure_cures(beside) -> None:
    small = compress(encoder(beside), "divprune", keep=4, drop_outputs=["beside"])
    assert [x.name for x in small.graph.outputs[:2]] == ["y", "pooled"]
    assert "beside" not in {x.name for node in small.graph for x in node.outputs}
    feeds = {v.name: np.full([*v.shape], 1, v.dtype.numpy()) for v in small.graph.inputs}
    assert run(small, feeds)[0].shape == (1, 4, D)


def test_a_length_read_from_the_tokens_follows() -> None:
    toy = Toy()
    x = toy.op("MatMul", toy.input("frames", 1, N, D), toy.weight(D, D))
    x = toy.op("Identity", toy.block(toy.block(x, D, 2), D, 2), name="y")
    count = toy.op("Shape", x, start=1, end=2, name="count")
    small = compress(toy.output(x, count), "divprune", keep=4)
    feeds = {"frames": np.random.default_rng(0).standard_normal((1, N, D)).astype(np.float32)}
    assert run(small, feeds)[1].tolist() == [4]


def test_features_that_still_have_the_prefix_are_refused_behind_where_it_is_cut_off() -> None:
    toy = Toy()
    x = toy.op("MatMul", toy.input("frames", 1, N, D), toy.weight(D, D))
    x = toy.op("Concat", toy.weight(1, 1, D), x, axis=1)
    features = toy.op("Tanh", x, name="beside")
    x = toy.block(toy.block(x, D, 2), D, 2)
    x = toy.op("Slice", x, toy.const([1]), toy.const([N + 1]), toy.const([1]), name="cut")
    model = toy.output(toy.op("MatMul", x, toy.weight(D, D), name="y"), features)
    with pytest.raises(GraphError, match=r"'beside' \[1, 13, 8\].*old count.*--drop-output beside"):
        compress(model, "kcenter_merge", keep=4, seam="tensor:cut")


def test_only_outputs_that_are_there_can_be_dropped_and_not_all() -> None:
    with pytest.raises(RequestError, match=r"no output 'besides'.*beside"):
        compress(encoder(lengths), "divprune", keep=4, drop_outputs=["besides"])
    with pytest.raises(RequestError, match="every output"):
        compress(encoder(lengths), "divprune", keep=4, drop_outputs=["beside", "y", "pooled"])
