"""Signals read in a graph are those PyTorch computes, in every spelling of attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import HEADS, Toy, example, exported, module, run, stripped
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.seam import Seam
from tokexport.graph_passes.seams import find_seams, resolve
from tokexport.graph_passes.signals import emit_signal


def emitted(model: ir.Model, seam: Seam, name: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    before = [value.name for value in model.graph.outputs]
    value = emit_signal(model, seam, name)
    assert emit_signal(model, seam, name) is value
    assert [value.name for value in model.graph.outputs] == before
    (result,) = run(model, feeds, [value])
    declared = value.shape
    assert declared is not None and len(declared) == result.ndim
    assert all(dim == size for dim, size in zip(declared, result.shape) if isinstance(dim, int))
    return result


def torch_attention(kind: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Softmax weights [B, H, n, n] and keys [B, n, D] of one layer, by hooks on the eager module."""
    import torch

    encoder = module(kind, "eager")
    block = (encoder.vision_tower.encoder if kind == "llava" else encoder).layers[layer]
    caught: dict[str, Any] = {}
    hooks = [
        block.self_attn.register_forward_hook(lambda m, a, out: caught.update(weights=out[1])),
        block.self_attn.k_proj.register_forward_hook(lambda m, a, out: caught.update(keys=out)),
    ]
    with torch.no_grad():
        encoder(torch.from_numpy(example(kind)))
    for hook in hooks:
        hook.remove()
    return caught["weights"].numpy(), caught["keys"].numpy()


def mean_keys(keys: np.ndarray, prefix: int) -> np.ndarray:
    return keys.reshape(*keys.shape[:2], HEADS, -1).mean(2)[:, prefix:]


GRAPHS = [(18, "sdpa", True), (18, "eager", True), (23, "sdpa", True), (17, "eager", False)]


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(("opset", "attention", "dynamo"), GRAPHS)
def test_cls_attention_and_keys_of_llava(opset: int, attention: str, dynamo: bool, bare: bool) -> None:
    model = exported("llava", max(opset, 18) if dynamo else 18, attention=attention, dynamo=dynamo)
    if bare:
        stripped(model)
    feeds = {model.graph.inputs[0].name or "": example("llava")}
    weights, keys = torch_attention("llava", 1)
    # encoder_output has the CLS token, projector_input has it sliced away: the signals are the same.
    for name in ("encoder_output", "projector_input"):
        seam = resolve(model, name)
        cls = emitted(model, seam, "cls_attention", feeds)
        assert cls.shape == (1, 16) and cls.dtype == np.float32
        np.testing.assert_allclose(cls, weights[:, :, 0, 1:].mean(1), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(emitted(model, seam, "keys", feeds), mean_keys(keys, 1), rtol=1e-5, atol=1e-6)
        model = exported("llava", max(opset, 18) if dynamo else 18, attention=attention, dynamo=dynamo)
        if bare:
            stripped(model)


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_keys_of_whisper_are_without_scale(opset: int, attention: str) -> None:
    model = exported("whisper", opset, attention=attention)
    _, keys = torch_attention("whisper", 1)
    found = emitted(model, resolve(model), "keys", {"input_features": example("whisper")})
    np.testing.assert_allclose(found, mean_keys(keys, 0), rtol=1e-5, atol=1e-6)


def test_a_missing_signal_names_the_methods_that_work() -> None:
    model = exported("whisper")
    with pytest.raises(RequestError, match=r"encoder_output.*cls_attention.*signals: keys.*apet"):
        emit_signal(model, resolve(model), "cls_attention")


def test_a_signal_of_another_graph_is_refused() -> None:
    seam = resolve(exported("llava"))
    with pytest.raises(GraphError, match="not in the graph"):
        emit_signal(stripped(exported("llava")), seam, "keys")


def operator_graph(*, rank: int = 4, mask: str = "", softcap: float = 0.0) -> tuple[ir.Model, ir.Value]:
    """CLS + 6 tokens through one Attention node with its softmax (mode 3) as second output."""
    toy = Toy(opset=23)
    x = toy.op("Concat", toy.weight(1, 1, 8), toy.input("x", 1, 6, 8), axis=1)
    q, k, v = (toy.op("MatMul", x, toy.weight(8, 8)) for _ in range(3))
    attributes: dict[str, Any] = {"softcap": softcap, "qk_matmul_output_mode": 3}
    if rank == 4:
        shape = toy.const([0, 0, 2, 4])
        q, k, v = (toy.op("Transpose", toy.op("Reshape", y, shape), perm=[0, 2, 1, 3]) for y in (q, k, v))
    else:
        attributes.update(q_num_heads=2, kv_num_heads=2)
    masks = {
        "bool": np.random.default_rng(0).random((7, 7)) > 0.3,
        "float": np.random.default_rng(0).standard_normal((1, 1, 7, 7)).astype(np.float32),
    }
    inputs: list[ir.Value | None] = [q, k, v] + ([toy.const(masks[mask])] if mask else [])
    node = ir.node("Attention", inputs, attributes, num_outputs=4, name="attention")
    for i, value in enumerate(node.outputs):
        value.name = f"attended{i}"
    node.resize_outputs(4)
    toy.graph.append(node)
    joined = node.outputs[0]
    if rank == 4:
        joined = toy.op("Reshape", toy.op("Transpose", joined, perm=[0, 2, 1, 3]), toy.const([0, 0, 8]))
    x = toy.op("Add", x, toy.op("MatMul", joined, toy.weight(8, 8)))
    x = toy.op("Add", x, toy.op("MatMul", toy.op("Relu", x), toy.weight(8, 8)))
    model = toy.output(toy.op("MatMul", x, toy.weight(8, 4)))
    return model, node.outputs[3]


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize(("mask", "softcap"), [("", 0.0), ("bool", 0.0), ("float", 0.0), ("", 0.5)])
def test_beside_an_attention_node_the_row_is_that_of_the_operator(rank: int, mask: str, softcap: float) -> None:
    model, weights = operator_graph(rank=rank, mask=mask, softcap=softcap)
    seam = resolve(model, "encoder_output")
    assert seam.signals["cls_attention"].kind == "query_key"
    value = emit_signal(model, seam, "cls_attention")
    feeds = {"x": np.random.default_rng(2).standard_normal((1, 6, 8)).astype(np.float32)}
    found, whole = run(model, feeds, [value, weights])
    np.testing.assert_allclose(found, whole[:, :, 0, 1:].mean(1), rtol=1e-5, atol=1e-7)


def spelled(spelling: str) -> tuple[ir.Model, ir.Value, ir.Value]:
    """One layer on CLS + 3 tokens with 2 heads of 4 channels: no shape tells n from d.

    Returns:
        The model, the softmax weights [B, H, n, n], and the unscaled keys [B, n, D].
    """
    toy = Toy()
    x = toy.op("Concat", toy.weight(1, 1, 8), toy.input("x", 1, 3, 8), axis=1)
    q, k, v = (toy.op("MatMul", x, toy.weight(8, 8)) for _ in range(3))
    keys, half = k, toy.const(np.float32(0.5**0.5))
    if spelling == "scaled_projection":
        k = toy.op("Mul", half, k)
    split, joined_heads = toy.const([1, 4, 2, 4]), toy.const([2, 4, 4])
    q, v = (toy.op("Transpose", toy.op("Reshape", y, split), perm=[0, 2, 1, 3]) for y in (q, v))
    k = toy.op("Reshape", k, split)
    if spelling == "bmm":
        k = toy.op("Reshape", toy.op("Transpose", k, perm=[0, 2, 1, 3]), joined_heads)
        q, v = (toy.op("Reshape", y, joined_heads) for y in (q, v))
        k = toy.op("Transpose", k, perm=[0, 2, 1])
    else:
        k = toy.op("Transpose", k, perm=[0, 2, 3, 1])
    if spelling == "divided":
        k = toy.op("Div", k, half)
    logits = toy.op("MatMul", q, k)
    if spelling == "masked":
        logits = toy.op("Add", logits, toy.const(np.float32([[[[0, -1, 0, -3e4]]]])))
        logits = toy.op("Where", toy.const(np.ones((1, 1, 4, 4), bool)), logits, toy.const(np.float32(-np.inf)))
    weights = toy.op("Softmax", logits, axis=-1)
    if spelling == "guarded":
        weights = toy.op("Where", toy.op("IsNaN", weights), toy.const(np.float32(0)), weights, name="guarded")
    mixed = toy.op("MatMul", weights, v)
    if spelling == "bmm":
        mixed = toy.op("Reshape", mixed, toy.const([1, 2, 4, 4]))
    mixed = toy.op("Reshape", toy.op("Transpose", mixed, perm=[0, 2, 1, 3]), toy.const([1, 4, 8]))
    x = toy.op("Add", x, toy.op("MatMul", mixed, toy.weight(8, 8)))
    x = toy.op("Add", x, toy.op("MatMul", toy.op("Relu", x), toy.weight(8, 8)))
    return toy.output(toy.op("MatMul", x, toy.weight(8, 4))), weights, keys


@pytest.mark.parametrize("spelling", ["plain", "scaled_projection", "divided", "bmm", "masked", "guarded"])
def test_spellings_of_attention(spelling: str) -> None:
    model, weights, keys = spelled(spelling)
    seam = resolve(model, "encoder_output")
    if spelling == "guarded":
        assert seam.signals["cls_attention"].tensors == ("guarded",)
    values = [emit_signal(model, seam, name) for name in ("cls_attention", "keys")]
    feeds = {"x": np.random.default_rng(2).standard_normal((1, 3, 8)).astype(np.float32)}
    cls, mean, all_weights, all_keys = run(model, feeds, [*values, weights, keys])
    np.testing.assert_allclose(cls, all_weights.reshape(1, 2, 4, 4)[:, :, 0, 1:].mean(1), rtol=1e-6)
    np.testing.assert_allclose(mean, all_keys.reshape(1, 4, 2, 4).mean(2)[:, 1:], rtol=1e-5, atol=1e-6)


def test_half_precision_attention_gives_a_float32_signal() -> None:
    toy = Toy()
    cast = toy.op("Cast", toy.input("x", 1, 6, 8), to=int(ir.DataType.FLOAT16))
    x = toy.op("Concat", toy.const(np.ones((1, 1, 8), np.float16)), cast, axis=1)
    toy.weight = lambda *shape: toy.const(toy.random.standard_normal(shape).astype(np.float16))  # type: ignore[method-assign]
    split = toy.const([0, 0, 2, 4])
    q, k = (toy.op("Transpose", toy.op("Reshape", x, split), perm=perm) for perm in ([0, 2, 1, 3], [0, 2, 3, 1]))
    weights = toy.op("Softmax", toy.op("MatMul", q, k), axis=-1)
    mixed = toy.op("Transpose", toy.op("MatMul", weights, q), perm=[0, 2, 1, 3])
    x = toy.op("Add", x, toy.op("MatMul", toy.op("Reshape", mixed, toy.const([0, 0, 8])), toy.weight(8, 8)))
    x = toy.op("Add", x, toy.op("MatMul", toy.op("Relu", x), toy.weight(8, 8)))
    model = toy.output(toy.op("MatMul", x, toy.weight(8, 4)))
    seam = resolve(model, "encoder_output")
    assert seam.dtype == "float16"
    value = emit_signal(model, seam, "cls_attention")
    (found,) = run(model, {"x": np.ones((1, 6, 8), np.float32)}, [value])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 1 / 7, rtol=1e-3)


def test_a_dynamic_batch_works() -> None:
    toy = Toy()
    x = toy.block(toy.op("Relu", toy.input("x", "batch", 5, 8)), 8, 2)
    model = toy.output(toy.op("MatMul", x, toy.weight(8, 4)))
    seam = find_seams(model)[0]
    value = emit_signal(model, seam, "keys")
    (found,) = run(model, {"x": np.ones((3, 5, 8), np.float32)}, [value])
    assert found.shape == (3, 5, 4)
