"""A mean over merged tokens counts each as often as it stands for one: with slots that are means it is exact."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, run
from tokexport.errors import GraphError
from tokexport.graph_passes.compress import compress

N, D = 16, 8


def mean(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("ReduceMean", x, toy.const([1]), keepdims=0)


def transposed_mean(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("ReduceMean", toy.op("Transpose", x, perm=[0, 2, 1]), toy.const([-1]), keepdims=0)


def global_pool(toy: Toy, x: ir.Value) -> ir.Value:
    pooled = toy.op("GlobalAveragePool", toy.op("Transpose", x, perm=[0, 2, 1]))
    return toy.op("Squeeze", pooled, toy.const([2]))


def flat_mean(toy: Toy, x: ir.Value) -> ir.Value:
    """Rows and tokens on one axis."""
    return toy.op("ReduceMean", toy.op("Reshape", x, toy.const([-1, D])), toy.const([0]), keepdims=0)


def softmax_pool(toy: Toy, x: ir.Value) -> ir.Value:
    """Weights that each token gives itself; equal ones, so that merging changes nothing else."""
    weights = toy.op("Softmax", toy.op("MatMul", x, toy.const(np.zeros((D, 1), np.float32))), axis=1)
    return toy.op("Squeeze", toy.op("MatMul", toy.op("Transpose", weights, perm=[0, 2, 1]), x), toy.const([1]))


def softmax_along_the_last_axis(toy: Toy, x: ir.Value) -> ir.Value:
    logits = toy.op("Squeeze", toy.op("MatMul", x, toy.const(np.zeros((D, 1), np.float32))), toy.const([2]))
    weights = toy.op("Unsqueeze", toy.op("Softmax", logits), toy.const([1]))
    return toy.op("Squeeze", toy.op("MatMul", weights, x), toy.const([1]))


def encoder(pool, batch: int = 2, *, prefix: bool = False) -> ir.Model:
    toy = Toy()
    x = toy.op("MatMul", toy.input("tokens", batch, N, D), toy.weight(D, D))
    if prefix:
        x = toy.op("Concat", toy.weight(batch, 1, D), x, axis=1)
    x = toy.op("Identity", x, name="seam")
    return toy.output(toy.op("Identity", pool(toy, toy.op("MatMul", x, toy.weight(D, D))), name="pooled"))


def feeds(batch: int = 2) -> dict[str, np.ndarray]:
    return {"tokens": np.random.default_rng(0).standard_normal((batch, N, D)).astype(np.float32)}


@pytest.mark.parametrize("pool", [mean, transposed_mean, global_pool, softmax_pool, softmax_along_the_last_axis])
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("keep", [5, 12])
def test_the_mean_of_merged_tokens_is_the_mean_of_all(pool, prefix: bool, keep: int) -> None:
    model = encoder(pool, prefix=prefix)
    small = compress(model, "kcenter_merge", keep=keep, seam="tensor:seam")
    np.testing.assert_allclose(run(small, feeds())[0], run(model, feeds())[0], rtol=1e-4, atol=1e-6)
    plain = compress(model, "kcenter_merge", keep=keep, seam="tensor:seam", size_bias="off")
    assert not np.allclose(run(plain, feeds())[0], run(model, feeds())[0], rtol=1e-2)


def test_one_row_without_an_axis_of_its_own() -> None:
    model = encoder(flat_mean, 1)
    small = compress(model, "kcenter_merge", keep=5, seam="tensor:seam")
    np.testing.assert_allclose(run(small, feeds(1))[0], run(model, feeds(1))[0], rtol=1e-4, atol=1e-6)


def test_several_rows_on_one_axis_are_refused_and_the_cure_cures() -> None:
    model = encoder(flat_mean, 2)
    with pytest.raises(GraphError, match="--size-bias off"):
        compress(model, "kcenter_merge", keep=5, seam="tensor:seam")
    assert compress(model, "kcenter_merge", keep=5, seam="tensor:seam", size_bias="off")


def test_a_selection_merges_nothing_and_its_mean_stays() -> None:
    small = compress(encoder(mean), "divprune", keep=5, seam="tensor:seam")
    assert not [x.name for node in small.graph for x in node.outputs if "weighted" in (x.name or "")]
