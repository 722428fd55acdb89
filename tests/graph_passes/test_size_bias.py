"""log(size) in the logits makes one token of size s weigh as much as s equal ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, example, exported, run
from tokexport.errors import GraphError
from tokexport.graph_passes.insertion.size_bias import add_size_bias
from tokexport.graph_passes.seams.find import resolve

SIZES = np.array([[1, 3, 2, 1]], np.float32)


def tower(tokens: int, *, batch: int | str = 1, mask: bool = False, prefix: int = 0) -> ir.Model:
    """Tokens and their sizes as inputs, two layers, a slice of the prefix, an attention of the projector."""
    toy = Toy()
    x = toy.op("Identity", toy.input("x", batch, tokens, 8), name="compressed")
    toy.input("sizes", batch, tokens - prefix)
    # The same number on all keys of a query leaves its softmax alone.
    bias = toy.const(np.linspace(-1, 1, tokens, dtype=np.float32).reshape(1, 1, -1, 1)) if mask else None
    x = toy.block(toy.block(x, 8, 2, mask=bias), 8, 2, mask=bias)
    toy.op("Identity", x, name="encoded")
    encoded = toy.graph[-1].outputs[0]
    big = np.iinfo(np.int64).max
    if prefix:
        x = toy.op("Slice", encoded, toy.const([prefix]), toy.const([big]), toy.const([1]), name="sliced")
        x = toy.block(x, 8, 2)
    return toy.output(encoded, *([x] if prefix else []))


def value(model: ir.Model, name: str) -> ir.Value:
    return next(v for node in model.graph for v in node.outputs if v.name == name)


def biased(model: ir.Model, prefix: int = 0) -> list[str]:
    return add_size_bias(model, value(model, "compressed"), model.graph.inputs[1], prefix)


@pytest.mark.parametrize("mask", [False, True])
def test_a_token_of_size_s_weighs_as_s_equal_tokens(mask: bool) -> None:
    x = np.random.default_rng(3).standard_normal((1, 4, 8)).astype(np.float32)
    repeats = SIZES[0].astype(int)
    long = x.repeat(repeats, axis=1)
    model, reference = tower(4, mask=mask), tower(7)
    assert len(biased(model)) == 2
    (merged,) = run(model, {"x": x, "sizes": SIZES})
    (whole,) = run(reference, {"x": long, "sizes": np.ones((1, 7), np.float32)})
    np.testing.assert_allclose(merged.repeat(repeats, axis=1), whole, rtol=1e-4, atol=1e-5)
    (without,) = run(tower(4), {"x": x, "sizes": SIZES})
    assert np.abs(without.repeat(repeats, axis=1) - whole).max() > 1e-2


def biased_copy(tokens: int) -> ir.Model:
    model = tower(tokens)
    biased(model)
    return model


def test_sizes_of_one_change_nothing_and_the_prefix_has_none() -> None:
    x = np.random.default_rng(3).standard_normal((1, 5, 8)).astype(np.float32)
    plain, model = tower(5, prefix=1), tower(5, prefix=1)
    changed = biased(model, prefix=1)
    # The attention behind the slice belongs to whatever follows the encoder.
    assert len(changed) == 2
    np.testing.assert_allclose(
        run(model, {"x": x, "sizes": np.ones((1, 4), np.float32)})[1],
        run(plain, {"x": x, "sizes": np.ones((1, 4), np.float32)})[1],
        rtol=1e-5,
        atol=1e-6,
    )
    long = np.concatenate([x[:, :1], x[:, 1:].repeat(SIZES[0].astype(int), axis=1)], 1)
    (whole, _) = run(tower(8, prefix=1), {"x": long, "sizes": np.ones((1, 7), np.float32)})
    (merged, _) = run(model, {"x": x, "sizes": SIZES})
    np.testing.assert_allclose(merged[:, 0], whole[:, 0], rtol=1e-4, atol=1e-5)


def test_a_dynamic_batch_has_sizes_of_its_own() -> None:
    model = tower(4, batch="batch")
    biased(model)
    x = np.random.default_rng(3).standard_normal((2, 4, 8)).astype(np.float32)
    sizes = np.concatenate([SIZES, np.ones_like(SIZES)])
    (both,) = run(model, {"x": x, "sizes": sizes})
    single = tower(4)
    (plain,) = run(single, {"x": x[1:], "sizes": SIZES})
    np.testing.assert_allclose(both[1:], plain, rtol=1e-5, atol=1e-6)
    (first,) = run(biased_copy(4), {"x": x[:1], "sizes": SIZES})
    np.testing.assert_allclose(both[:1], first, rtol=1e-5, atol=1e-6)


def operator_tower(mask: str) -> ir.Model:
    toy = Toy(opset=23)
    x = toy.op("Identity", toy.input("x", 1, 4, 8), name="compressed")
    toy.input("sizes", 1, 4)
    split = toy.const([0, 0, 2, 4])
    q, k, v = (
        toy.op("Transpose", toy.op("Reshape", toy.op("MatMul", x, toy.weight(8, 8)), split), perm=[0, 2, 1, 3])
        for _ in range(3)
    )
    allowed = np.tri(4, dtype=bool)
    masks = {"bool": allowed, "float": np.where(allowed, 0, -3e4).astype(np.float32)[None, None]}
    return toy.output(toy.op("Attention", q, k, v, *([toy.const(masks[mask])] if mask else [])))


@pytest.mark.parametrize("mask", ["", "bool", "float"])
def test_the_attention_node_takes_it_as_a_mask(mask: str) -> None:
    x = np.random.default_rng(3).standard_normal((1, 4, 8)).astype(np.float32)
    model = operator_tower(mask)
    biased(model)
    (found,) = run(model, {"x": x, "sizes": SIZES})
    plain = operator_tower(mask)
    node = next(n for n in plain.graph if n.op_type == "Attention")
    q, k, v = run(plain, {"x": x, "sizes": SIZES}, [y for y in node.inputs[:3] if y is not None])
    logits = q @ k.swapaxes(-1, -2) * 4**-0.5 + np.log(SIZES)[:, None, None]
    if mask:
        logits = np.where(np.tri(4, dtype=bool), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(found, weights / weights.sum(-1, keepdims=True) @ v, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [18, 23])
def test_real_export_after_the_first_layer(opset: int) -> None:
    model = exported("llava", opset)
    seam = resolve(model, "encoder_layer:0")
    sizes = ir.Value(name="sizes", shape=ir.Shape([1, 16]), type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.inputs.append(sizes)
    tensor = value(model, seam.tensor)
    assert len(add_size_bias(model, tensor, sizes, seam.prefix)) == 1
    image = example("llava")
    (plain,) = run(exported("llava", opset), {"pixel_values": image})
    (ones,) = run(model, {"pixel_values": image, "sizes": np.ones((1, 16), np.float32)})
    np.testing.assert_allclose(ones, plain, rtol=1e-4, atol=1e-5)
    # Huge equal sizes leave CLS, the only key without one, no weight: the output must move.
    (other,) = run(model, {"pixel_values": image, "sizes": np.full((1, 16), 1e4, np.float32)})
    assert np.abs(other - plain).max() > 1e-4


def test_no_attention_downstream_is_an_error() -> None:
    model = exported("llava")
    with pytest.raises(GraphError, match=r"no self-attention.*--size-bias off"):
        add_size_bias(model, value(model, resolve(model).tensor), model.graph.inputs[0], 1)
