"""Tokens without a batch axis [N, D] are compressed as a batch of one; rows of a batch on one axis are not tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from exported_models import Toy, by_name, run
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.insertion.sequence import Step, insert_steps, places
from tokexport.graph_passes.reference import reference
from tokexport.graph_passes.seams.find import resolve

N, D, H = 16, 8, 2


def block(toy: Toy, x: ir.Value, *, reorder: bool = False) -> ir.Value:
    """A layer over [n, D] whose attention has heads first and no batch; `reorder` turns 4 x 4 places round after it."""
    q, k, v = (
        toy.op(
            "Transpose", toy.op("Reshape", toy.op("MatMul", x, toy.weight(D, D)), toy.const([-1, H, D // H])), perm=p
        )
        for p in ([1, 0, 2], [1, 2, 0], [1, 0, 2])
    )
    mixed = toy.op("MatMul", toy.op("Softmax", toy.op("MatMul", q, k), axis=-1), v)
    if reorder:
        mixed = toy.op("Reshape", mixed, toy.const([H, 4, 4, D // H]))
        mixed = toy.op("Reshape", toy.op("Transpose", mixed, perm=[0, 2, 1, 3]), toy.const([H, N, D // H]))
    joined = toy.op("Reshape", toy.op("Transpose", mixed, perm=[1, 0, 2]), toy.const([-1, D]))
    x = toy.op("Add", x, toy.op("MatMul", joined, toy.weight(D, D)))
    return toy.op("Add", x, toy.op("MatMul", toy.op("Relu", x), toy.weight(D, D)))


def tower(
    *, cls: bool = False, rows: int = 0, reorder: bool = False, beside: bool = False, cut: bool = False
) -> ir.Model:
    """pixels [N, 6] -> features [n, D] -> y [n, 4]; or of a batch of `rows` pictures, joined on one axis.

    With `beside` the pixels are an output too; with `cut` features have no prefix, and what is beside them has it.
    """
    toy = Toy()
    x = toy.op("MatMul", toy.input("pixels", *([rows] if rows else []), N, 6), toy.weight(6, D))
    x = toy.op("Reshape", x, toy.const([-1, D])) if rows else x
    x = toy.op("Concat", toy.weight(1, D), x, axis=0) if cls else x
    x = block(toy, block(toy, x), reorder=reorder)
    whole = x
    x = toy.op("Slice", x, toy.const([1]), toy.const([99]), toy.const([0])) if cut else x
    features = toy.op("Identity", x, name="features")
    more = [toy.op("Sigmoid", whole if cut else toy.graph.inputs[0], name="beside")] if beside or cut else []
    return toy.output(toy.op("MatMul", features, toy.weight(D, 4), name="y"), *more)


def pixels() -> dict[str, np.ndarray]:
    return {"pixels": np.random.default_rng(0).standard_normal((N, 6)).astype(np.float32)}


@pytest.mark.parametrize("cls", [False, True])
def test_slots_are_those_of_the_reference(cls: bool) -> None:
    model = tower(cls=cls)
    seam = by_name(model)["encoder_output"]
    assert (seam.tokens, seam.dim, seam.batch, seam.prefix, seam.rank, seam.valid) == (N, D, 1, int(cls), 2, True)
    whole = tower(cls=cls)
    (before,) = run(whole, pixels(), [whole.graph.outputs[0].producer().inputs[0]])
    short = compress(model, "kcenter_merge", keep=5, seam="encoder_output")
    after, sizes = run(short, pixels(), [short.graph.outputs[0].producer().inputs[0], short.graph.outputs[2]])
    expected = reference("kcenter_merge", torch.from_numpy(before[None, int(cls) :]), keep=5)
    assert after.shape == (5 + cls, D) and sizes.shape == (1, 5)
    np.testing.assert_allclose(after[int(cls) :], expected.tokens[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after[: int(cls)], before[: int(cls)])


def test_the_last_attention_is_a_signal_there() -> None:
    model = tower(cls=True)
    assert set(by_name(model)["encoder_output"].signals) == {"cls_attention", "received_attention"}
    short = compress(model, "topk", keep=4, seam="encoder_output")
    assert run(short, pixels())[0].shape == (5, 4)


def test_tokens_in_another_order_give_no_signal() -> None:
    assert by_name(tower(reorder=True))["encoder_output"].signals == {}


def test_rows_of_a_batch_on_one_axis_are_refused() -> None:
    seam = by_name(tower(rows=2))["encoder_output"]
    assert not seam.valid and "several rows of the batch" in seam.why and ".unsqueeze(0)" in seam.why
    with pytest.raises(RequestError, match="several rows of the batch"):
        compress(tower(rows=2), "kcenter_merge", keep=5, seam="encoder_output")
    assert by_name(tower(rows=1))["encoder_output"].valid


def test_a_vector_for_the_whole_input_is_no_seam() -> None:
    toy = Toy()
    x = toy.block(toy.block(toy.input("tokens", 1, N, D), D, H), D, H)
    vector = toy.op("ReduceMean", toy.op("Identity", x), toy.const([1]), keepdims=0, name="vector")
    with pytest.raises(GraphError, match="a vector for the whole input"):
        compress(toy.output(vector), "uniform", keep=1, seam="tensor:vector")


def test_features_beside_the_tokens_are_counted_on_their_first_axis() -> None:
    with pytest.raises(GraphError, match=r"'beside'.*would keep the old count"):
        compress(tower(beside=True), "kcenter_merge", keep=5, seam="encoder_output")


def test_features_beside_that_still_have_the_prefix_are_counted_too() -> None:
    with pytest.raises(GraphError, match=r"'beside'.*would keep the old count"):
        compress(tower(cls=True, cut=True), "kcenter_merge", keep=5, seam="tensor:features")


def test_two_steps_in_a_row_and_inside_the_layers() -> None:
    model = tower(cls=True)
    steps = [Step(make("kcenter_merge"), None, 8, "encoder_output"), Step(make("uniform"), None, 3, "encoder_output")]
    done = insert_steps(model, steps, places(model, steps))
    assert done.keep == 3 and run(model, pixels())[0].shape == (4, 4)
    model = tower()
    inner = next(node.outputs[0] for node in model.graph if node.op_type == "Add")
    seam = replace(resolve(model, f"tensor:{inner.name}"), name="encoder_layer:0")
    assert insert(model, seam, make("kcenter_merge"), 6).biased
    assert run(model, pixels())[0].shape == (6, 4)


def test_learned_tokens_behind_the_others_are_named() -> None:
    toy = Toy()
    x = toy.op("Concat", toy.op("MatMul", toy.input("pixels", N, 6), toy.weight(6, D)), toy.weight(2, D), axis=0)
    features = toy.op("Identity", block(toy, block(toy, x)), name="features")
    seam = by_name(toy.output(toy.op("MatMul", features, toy.weight(D, 4), name="y")))["encoder_output"]
    assert not seam.valid and "2 learned token(s) are appended after the tokens" in seam.why
