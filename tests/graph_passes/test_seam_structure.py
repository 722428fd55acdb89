"""What structure says of a seam: grids, prefix tokens and mergers, and nothing that the graph does not prove."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, by_name
from tokexport.errors import RequestError
from tokexport.graph_passes.seams.find import find_seams, resolve


def merged_tower(*, grid: bool = True, merge: bool = True) -> ir.Model:
    """Two blocks, then a pixel shuffle that joins 2 x 2 patches, then a projector: as InternVL has it."""
    toy = Toy()
    if grid:
        tokens = toy.patches(toy.input("pixels", 1, 3, 16, 16), 8, 4)
    else:
        tokens = toy.op("Relu", toy.input("tokens", 1, 16, 8))
    for _ in range(2):
        tokens = toy.block(tokens, 8, 2)
    if merge:
        tokens = toy.op("Reshape", tokens, toy.const([0, 2, 2, 2, 2, 8]), name="split")
        tokens = toy.op("Transpose", tokens, perm=[0, 1, 3, 2, 4, 5])
        tokens = toy.op("Reshape", tokens, toy.const([0, 4, 32]), name="merged")
    scale, bias = toy.weight(32 if merge else 8), toy.weight(32 if merge else 8)
    normed = toy.op("LayerNormalization", tokens, scale, bias, axis=-1)
    return toy.output(toy.op("MatMul", normed, toy.weight(32 if merge else 8, 6), name="projected"))


def test_a_merger_makes_the_encoder_output_invalid_and_auto_goes_downstream() -> None:
    model = merged_tower()
    seams = by_name(model)
    output, entry = seams["encoder_output"], seams["projector_input"]
    assert not output.valid and "Reshape" in output.why
    # Before the norm: the place right behind the last operation that moves tokens.
    assert (entry.tensor, entry.tokens, entry.dim, entry.grid, entry.valid) == ("merged", 4, 32, (2, 2), True)
    # The attention saw 16 tokens and these are 4, so nothing of it can be read here.
    assert entry.signals == {}
    assert resolve(model).name == "projector_input"
    assert resolve(model, "auto", "projector_output").name == "projector_output"
    with pytest.raises(RequestError, match=r"encoder_output.*Reshape.*projector_input"):
        resolve(model, "encoder_output")


def test_the_final_norm_belongs_to_the_encoder_where_it_is_the_only_user() -> None:
    seams = by_name(merged_tower(merge=False))
    assert seams["encoder_output"].tensor == seams["projector_input"].tensor
    assert seams["encoder_output"].valid


def test_no_grid_without_a_convolution_that_proves_it() -> None:
    assert by_name(merged_tower(merge=False))["encoder_output"].grid == (4, 4)
    assert by_name(merged_tower(grid=False, merge=False))["encoder_output"].grid is None


def with_prefix(*, cls_first: bool = True, registers: int = 0, drop: int | None = 1, expand: bool = False) -> ir.Model:
    toy = Toy()
    image = toy.input("pixels", "batch" if expand else 1, 3, 16, 16)
    patches = toy.patches(image, 8, 4)
    learned = [toy.weight(1, 1, 8)] + ([toy.weight(1, registers, 8)] if registers else [])
    if expand:
        batch = toy.op("Slice", toy.op("Shape", image), toy.const([0]), toy.const([1]))
        size = toy.op("Concat", batch, toy.const([1, 8]), axis=0)
        learned = [toy.op("Expand", learned[0], size)]
    x = toy.op("Concat", *([*learned, patches] if cls_first else [patches, *learned]), axis=1)
    x = toy.op("Add", x, toy.weight(1, 17 + registers, 8))
    x = toy.block(toy.block(x, 8, 2), 8, 2)
    if drop:
        big = np.iinfo(np.int64).max
        x = toy.op("Slice", x, toy.const([drop]), toy.const([big]), toy.const([1]), name="sliced")
    return toy.output(toy.op("MatMul", x, toy.weight(8, 6), name="projected"))


@pytest.mark.parametrize(("registers", "drop"), [(0, 1), (0, None), (4, 5), (4, None)])
def test_leading_learned_tokens_are_the_prefix(registers: int, drop: int | None) -> None:
    seams = by_name(with_prefix(registers=registers, drop=drop))
    output = seams["encoder_output"]
    assert (output.prefix, output.tokens) == (1 + registers, 16)
    entry = seams["projector_input"]
    assert (entry.prefix, entry.tokens) == (0 if drop else 1 + registers, 16)
    assert entry.signals["cls_attention"].prefix == 1 + registers


def test_a_slice_may_leave_registers_and_may_take_patches() -> None:
    left = by_name(with_prefix(registers=4, drop=1))["projector_input"]
    assert (left.prefix, left.tokens, left.signals["cls_attention"].prefix) == (4, 16, 5)
    # Two patches are gone: what the attention says about 16 tokens does not fit 14.
    taken = by_name(with_prefix(registers=4, drop=7))["projector_input"]
    assert (taken.prefix, taken.tokens, taken.signals) == (0, 14, {})


def test_a_learned_token_expanded_to_a_dynamic_batch_is_a_prefix() -> None:
    output = by_name(with_prefix(expand=True))["encoder_output"]
    assert (output.batch, output.prefix, output.tokens) == (None, 1, 16)


def test_registers_put_between_cls_and_patches_are_prefix_too() -> None:
    """DINOv2 adds positions first, then rebuilds [CLS | registers | patches] from slices."""
    toy = Toy()
    x = toy.op("Concat", toy.weight(1, 1, 8), toy.patches(toy.input("pixels", 1, 3, 16, 16), 8, 4), axis=1)
    x = toy.op("Add", x, toy.weight(1, 17, 8))
    zero, one, big, axis = (toy.const([i]) for i in (0, 1, np.iinfo(np.int64).max, 1))
    cls, patches = toy.op("Slice", x, zero, one, axis), toy.op("Slice", x, one, big, axis)
    x = toy.op("Concat", cls, toy.weight(1, 4, 8), patches, axis=1)
    x = toy.block(toy.block(x, 8, 2), 8, 2)
    output = by_name(toy.output(toy.op("Identity", x)))["encoder_output"]
    assert (output.prefix, output.tokens, output.grid) == (5, 16, (4, 4))


@pytest.mark.parametrize(("index", "valid"), [(0, True), (3, False)])
def test_a_head_may_read_the_cls_token_but_no_patch_by_position(index: int, valid: bool) -> None:
    toy = Toy()
    x = toy.op("Concat", toy.weight(1, 1, 8), toy.op("Relu", toy.input("tokens", 1, 6, 8)), axis=1)
    picked = toy.op("Gather", toy.block(x, 8, 2), toy.const(np.array(index)), axis=1)
    output = by_name(toy.output(toy.op("MatMul", picked, toy.weight(8, 2))))["encoder_output"]
    assert output.valid is valid


def test_a_downstream_slice_alone_proves_the_prefix() -> None:
    toy = Toy()
    x = toy.op("Relu", toy.input("tokens", 1, 17, 8))
    x = toy.block(x, 8, 2)
    big = np.iinfo(np.int64).max
    sliced = toy.op("Slice", x, toy.const([1]), toy.const([big]), toy.const([1]))
    output = by_name(toy.output(toy.op("MatMul", sliced, toy.weight(8, 6))))["encoder_output"]
    assert (output.prefix, output.tokens) == (1, 16)


def test_a_learned_token_after_the_patches_is_refused() -> None:
    output = by_name(with_prefix(cls_first=False, drop=None))["encoder_output"]
    assert not output.valid and "after the tokens" in output.why and output.prefix == 0


def test_parallel_towers_are_not_guessed() -> None:
    toy = Toy()
    x = toy.op("Relu", toy.input("tokens", 1, 16, 8))
    left, right = toy.block(x, 8, 2), toy.block(x, 8, 2)
    model = toy.output(toy.op("MatMul", toy.op("Concat", left, right, axis=2), toy.weight(16, 6)))
    assert find_seams(model) == []
    with pytest.raises(RequestError, match=r"no single longest chain.*tensor:NAME"):
        resolve(model)


def test_features_of_several_layers_cannot_be_compressed_at_one_of_them() -> None:
    toy = Toy()
    first = toy.block(toy.op("Relu", toy.input("tokens", 1, 16, 8)), 8, 2)
    last = toy.block(first, 8, 2)
    joined = toy.op("Concat", last, first, axis=2, name="joined")
    seams = by_name(toy.output(toy.op("MatMul", joined, toy.weight(16, 6))))
    assert not seams["encoder_output"].valid and "joins" in seams["encoder_output"].why
    assert seams["projector_input"].tensor == "joined" and seams["projector_input"].valid
