"""Which axis is the batch: tokens on axis 0 are refused or turned round, and rows may not be joined behind a seam."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, by_name, run
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.compress import compress

N, D, FRAMES = 16, 8, 4


def sequence_first_block(toy: Toy, x: ir.Value) -> ir.Value:
    """One layer on [N, B, D], as nn.MultiheadAttention writes it by default."""
    q, k, v = (toy.op("Transpose", toy.op("MatMul", x, toy.weight(D, D)), perm=[1, 0, 2]) for _ in range(3))
    logits = toy.op("MatMul", q, toy.op("Transpose", k, perm=[0, 2, 1]))
    mixed = toy.op("MatMul", toy.op("Softmax", logits, axis=-1), v)
    x = toy.op("Add", x, toy.op("MatMul", toy.op("Transpose", mixed, perm=[1, 0, 2]), toy.weight(D, D)))
    return toy.op("Add", x, toy.op("MatMul", toy.op("Relu", x), toy.weight(D, D)))


def sequence_first(batch: int | str, *, back: bool) -> ir.Model:
    toy = Toy()
    x = toy.op("Transpose", toy.patches(toy.input("pixels", batch, 3, 16, 16), D, 4), perm=[1, 0, 2])
    x = sequence_first_block(toy, sequence_first_block(toy, x))
    if back:
        x = toy.op("Transpose", x, perm=[1, 0, 2])
    return toy.output(toy.op("Identity", x, name="y"))


@pytest.mark.parametrize("batch", [1, 4, "batch"])
def test_tokens_on_axis_0_are_refused_with_the_cure(batch: int | str) -> None:
    with pytest.raises((RequestError, GraphError), match=r"\[N, B, D\].*permute\(1, 0, 2\)"):
        compress(sequence_first(batch, back=False), "kcenter_merge", keep=5)


@pytest.mark.parametrize("batch", [1, 4, "batch"])
def test_the_cure_cures_and_no_picture_meets_another(batch: int | str) -> None:
    model = sequence_first(batch, back=True)
    seam = by_name(model)["encoder_output"]
    assert (seam.tokens, seam.grid, seam.valid) == (N, (4, 4), True)
    rows = batch if isinstance(batch, int) else 3
    feeds = {"pixels": np.random.default_rng(0).standard_normal((rows, 3, 16, 16)).astype(np.float32)}
    whole, (tokens, kept, *_) = run(model, feeds)[0], run(compress(model, "divprune", keep=5), feeds)
    assert tokens.shape == (rows, 5, D)
    np.testing.assert_allclose(tokens, np.take_along_axis(whole, kept[:, :, None], 1), rtol=1e-5)


def frames(toy: Toy) -> ir.Value:
    """[4, 16, 8]: frames as the batch, two layers inside each."""
    x = toy.patches(toy.input("frames", FRAMES, 3, 16, 16), D, 4)
    return toy.block(toy.block(x, D, 2), D, 2)


def temporal_attention(toy: Toy, x: ir.Value) -> ir.Value:
    """The same place of all frames: [4, 16, D] -> [16, 4, D]."""
    x = toy.op("Reshape", x, toy.const([1, FRAMES, N, D]))
    x = toy.op("Reshape", toy.op("Transpose", x, perm=[0, 2, 1, 3]), toy.const([N, FRAMES, D]))
    return toy.block(x, D, 2)


def flat_then_temporal(toy: Toy, x: ir.Value) -> ir.Value:
    """The frames joined to one axis of 64 tokens and taken apart again."""
    x = toy.op("Reshape", x, toy.const([1, FRAMES * N, D]))
    return temporal_attention(toy, toy.op("Reshape", x, toy.const([FRAMES, N, D])))


def mean_of_frames(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("ReduceMean", x, toy.const([0]), keepdims=1)


def difference_of_frames(toy: Toy, x: ir.Value) -> ir.Value:
    first, second = (toy.op("Slice", x, toy.const([i]), toy.const([i + 3]), toy.const([0])) for i in (0, 1))
    return toy.op("Sub", second, first)


@pytest.mark.parametrize("joins", [temporal_attention, flat_then_temporal, mean_of_frames, difference_of_frames])
def test_rows_that_are_joined_place_by_place_are_refused(joins) -> None:
    toy = Toy()
    model = toy.output(toy.op("Identity", joins(toy, toy.op("Identity", frames(toy), name="seam")), name="y"))
    with pytest.raises(GraphError, match=r"rows of the batch are joined.*(Softmax|ReduceMean|Sub)"):
        compress(model, "divprune", keep=4, seam="tensor:seam")


def per_frame(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.block(x, D, 2)


def one_sequence(toy: Toy, x: ir.Value) -> ir.Value:
    """All tokens of all frames attend to each other."""
    return toy.block(toy.op("Reshape", x, toy.const([1, FRAMES * N, D])), D, 2)


def pooled_then_joined(toy: Toy, x: ir.Value) -> ir.Value:
    """One vector a frame; what attends then are no tokens."""
    return toy.block(toy.op("Unsqueeze", toy.op("ReduceMax", x, toy.const([1]), keepdims=0), toy.const([0])), D, 2)


@pytest.mark.parametrize("joins", [per_frame, one_sequence, pooled_then_joined])
def test_rows_that_stay_apart_or_follow_each_other_are_fine(joins) -> None:
    toy = Toy()
    model = toy.output(toy.op("Identity", joins(toy, toy.op("Identity", frames(toy), name="seam")), name="y"))
    assert compress(model, "divprune", keep=4, seam="tensor:seam")
