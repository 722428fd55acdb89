"""A learned token beside the patches is no patch, whatever an exporter wrote to bring it to the batch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, by_name, run
from tokexport.errors import RequestError
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.ir_tools.fold_shapes import stand_in

D, PATCHES = 8, 16


def where_expand(toy: Toy, cls: ir.Value, image: ir.Value) -> ir.Value:
    """TorchScript: sizes of -1 become 1 in a Where, which shape inference does not follow."""
    batch = toy.op("Unsqueeze", toy.op("Gather", toy.op("Shape", image), toy.const(np.array(0))), toy.const([0]))
    wanted = toy.op("Concat", batch, toy.const([-1]), toy.const([-1]), axis=0)
    ones = toy.op("ConstantOfShape", toy.const([3]), value=ir.tensor(np.array([1], np.int64)))
    minus = toy.op("Mul", ones, toy.const([-1]))
    return toy.op("Expand", cls, toy.op("Where", toy.op("Equal", wanted, minus), ones, wanted))


def tile(toy: Toy, cls: ir.Value, image: ir.Value) -> ir.Value:
    batch = toy.op("Slice", toy.op("Shape", image), toy.const([0]), toy.const([1]))
    return toy.op("Tile", cls, toy.op("Concat", batch, toy.const([1, 1]), axis=0))


def added_to_zeros(toy: Toy, cls: ir.Value, image: ir.Value) -> ir.Value:
    batch = toy.op("Slice", toy.op("Shape", image), toy.const([0]), toy.const([1]))
    shape = toy.op("Concat", batch, toy.const([1, D]), axis=0)
    return toy.op("Add", cls, toy.op("ConstantOfShape", shape))


SPELLINGS = (where_expand, tile, added_to_zeros)


def tower(spell, *, batch: int | str = 1, learned: int = 1, appended: bool = False) -> ir.Model:
    toy = Toy()
    image = toy.input("pixels", batch, 3, 16, 16)
    patches = toy.patches(image, D, 4)
    extra = [spell(toy, toy.weight(1, 1, D), image) for _ in range(learned)]
    x = toy.op("Concat", *([patches, *extra] if appended else [*extra, patches]), axis=1)
    x = toy.op("Add", x, toy.weight(1, PATCHES + learned, D))
    return toy.output(toy.op("Identity", toy.block(toy.block(x, D, 2), D, 2), name="y"))


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("batch", [1, 3, "batch"])
@pytest.mark.parametrize("learned", [1, 2])
def test_learned_tokens_are_the_prefix_and_come_through_untouched(spell, batch: int | str, learned: int) -> None:
    model = tower(spell, batch=batch, learned=learned)
    seam = by_name(model)["encoder_output"]
    assert (seam.prefix, seam.tokens, seam.grid, seam.valid) == (learned, PATCHES, (4, 4), True)
    rows = batch if isinstance(batch, int) else 2
    feeds = {"pixels": np.random.default_rng(0).standard_normal((rows, 3, 16, 16)).astype(np.float32)}
    before = run(model, feeds)[0]
    after = run(compress(model, "kcenter_merge", keep=5), feeds)[0]
    assert after.shape == (rows, learned + 5, D)
    np.testing.assert_allclose(after[:, :learned], before[:, :learned], rtol=1e-5)


@pytest.mark.parametrize("spell", SPELLINGS)
def test_learned_tokens_behind_the_patches_are_refused(spell) -> None:
    with pytest.raises(RequestError, match=r"1 learned token.*after the tokens"):
        compress(tower(spell, appended=True), "kcenter_merge", keep=5)


def test_a_token_more_than_there_are_patches_is_refused_where_its_place_is_not_shown() -> None:
    toy = Toy()
    patches = toy.patches(toy.input("pixels", 1, 3, 16, 16), D, 4)
    zeros = toy.op("Pad", patches, toy.const([0, 1, 0, 0, 0, 0]))
    x = toy.op("ScatterElements", zeros, toy.const(np.zeros((1, 1, D), np.int64)), toy.weight(1, 1, D), axis=1)
    model = toy.output(toy.op("Identity", toy.block(toy.block(x, D, 2), D, 2), name="y"))
    with pytest.raises(RequestError, match=r"17 tokens where a convolution upstream gives 16 places.*dynamo=True"):
        compress(model, "kcenter_merge", keep=5)


def test_sizes_are_worked_out_without_reading_weights() -> None:
    model = tower(where_expand)
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and value.const_value.size > 1:
            value.const_value = ir.ExternalTensor("absent.bin", 0, value.const_value.nbytes, value.dtype,
                                                  shape=value.shape, name=value.name or "")  # fmt: skip
    assert by_name(model)["encoder_output"].prefix == 1


def test_what_stands_for_a_size_is_divided_by_no_count() -> None:
    standing = [stand_in(i) for i in range(20)]
    assert sorted({*standing}) == standing
    assert all(number % count for number in standing for count in range(2, 1025))
