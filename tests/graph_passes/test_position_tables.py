"""Rotary tables inside an encoder are read at the kept tokens; where tokens were merged there is no such place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, run
from tokexport.errors import GraphError
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.seams.find import resolve

N, D = 16, 8


def model(*, cls: bool = False, computed: bool = False, batch: int = 1) -> ir.Model:
    """tokens [B, N, D] -> hidden -> times a table with a row for each place -> y."""
    toy = Toy()
    x = toy.op("Tanh", toy.input("tokens", batch, N, D))
    x = toy.op("Concat", toy.weight(batch, 1, D), x, axis=1) if cls else x
    x = toy.op("Identity", x, name="hidden")
    angles = toy.op("Mul", toy.const(np.arange(N + cls, dtype=np.float32)[:, None]), toy.weight(1, D))
    table = toy.op("Cos", angles) if computed else toy.weight(N + cls, D)
    return toy.output(toy.op("Identity", toy.op("Mul", x, table), name="y"))


def tokens() -> dict[str, np.ndarray]:
    return {"tokens": np.random.default_rng(0).standard_normal((1, N, D)).astype(np.float32)}


def compressed(graph: ir.Model, method: str, keep: int = 5) -> ir.Model:
    insert(graph, replace(resolve(graph, "tensor:hidden"), name="encoder_layer:0"), make(method), keep)
    return graph


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("cls", [False, True])
def test_rows_are_those_of_the_kept_tokens(cls: bool, computed: bool) -> None:
    (whole,) = run(model(cls=cls, computed=computed), tokens())
    short, kept, *_ = run(compressed(model(cls=cls, computed=computed), "uniform"), tokens())
    places = [*range(cls), *(kept[0] + cls)]
    assert places != list(range(5 + cls))
    np.testing.assert_array_equal(short[0], whole[0, places])


@pytest.mark.parametrize(("method", "keep"), [("kcenter_merge", 5), ("conv1d", 4)])
def test_a_slot_of_several_tokens_has_no_place(method: str, keep: int) -> None:
    with pytest.raises(GraphError, match="a merged slot has no single position: take a method that selects tokens"):
        compressed(model(), method, keep)


def test_a_slot_of_several_tokens_reads_the_row_of_its_place_where_the_model_says_so() -> None:
    (whole,) = run(model(), tokens())
    graph = model()
    seam = replace(resolve(graph, "tensor:hidden"), name="encoder_layer:0", merged_rows=True)
    insert(graph, seam, make("kcenter_merge"), 5, size_bias=False)
    short, kept, sizes, *_ = run(graph, tokens())
    alone = np.flatnonzero(sizes[0] == 1)
    assert 0 < len(alone) < 5
    # y of a token alone is its own; the row of a merged one is that of kept_indices too.
    np.testing.assert_allclose(short[0, alone], whole[0, kept[0, alone]], rtol=1e-5)
    with pytest.raises(GraphError, match="a merged slot has no single position"):
        insert(model(), seam, make("conv1d"), 4)


def test_rows_of_a_batch_keep_other_places() -> None:
    with pytest.raises(GraphError, match="export the model with one row"):
        compressed(model(batch=2), "uniform")
