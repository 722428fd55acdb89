"""Signals read in a graph are those PyTorch computes, in every spelling of attention."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import HEADS, Toy, example, exported, module, run, stripped
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.insertion.signals import emit_signal
from tokexport.graph_passes.seams.find import find_seams, resolve
from tokexport.graph_passes.seams.seam import Seam


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
def test_attention_and_keys_of_llava(opset: int, attention: str, dynamo: bool, bare: bool) -> None:
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
        received = emitted(model, seam, "received_attention", feeds)
        assert received.shape == (1, 16) and received.dtype == np.float32
        np.testing.assert_allclose(received, weights[..., 1:].mean((1, 2)), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(emitted(model, seam, "keys", feeds), mean_keys(keys, 1), rtol=1e-5, atol=1e-6)
        model = exported("llava", max(opset, 18) if dynamo else 18, attention=attention, dynamo=dynamo)
        if bare:
            stripped(model)


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_cls_there_are_keys_without_scale_and_received_attention(opset: int, attention: str) -> None:
    model = exported("whisper", opset, attention=attention)
    weights, keys = torch_attention("whisper", 1)
    feeds = {"input_features": example("whisper")}
    assert set(resolve(model).signals) == {"keys", "received_attention"}
    found = emitted(model, resolve(model), "keys", feeds)
    np.testing.assert_allclose(found, mean_keys(keys, 0), rtol=1e-5, atol=1e-6)
    received = emitted(model, resolve(model), "received_attention", feeds)
    np.testing.assert_allclose(received, weights.mean((1, 2)), rtol=1e-5, atol=1e-7)


def test_without_cls_the_error_offers_received_attention_and_the_methods_that_work() -> None:
    model = exported("whisper")
    said = r"encoder_output.*cls_attention.*signals: keys, received_attention.*cls_topk.*--set attention=received.*apet"
    with pytest.raises(RequestError, match=said):
        emit_signal(model, resolve(model), "cls_attention")


def test_without_any_attention_nothing_is_offered_but_methods_that_work() -> None:
    model = exported("whisper")
    seam = dataclasses.replace(resolve(model), signals={})
    with pytest.raises(RequestError, match=r"Methods that work there: .*apet") as error:
        emit_signal(model, seam, "cls_attention")
    assert "attention=received" not in str(error.value)


def test_a_signal_of_another_graph_is_refused() -> None:
    seam = resolve(exported("llava"))
    with pytest.raises(GraphError, match="not in the graph"):
        emit_signal(stripped(exported("llava")), seam, "keys")


def operator_graph(
    *, rank: int = 4, mask: str = "", softcap: float = 0.0, half: bool = False
) -> tuple[ir.Model, ir.Value]:
    """CLS + 6 tokens through one Attention node with its softmax (mode 3) as last output, in float16 where `half`."""
    toy = Toy(opset=23)
    x = toy.input("x", 1, 6, 8)
    if half:
        x = toy.op("Cast", x, to=int(ir.DataType.FLOAT16))
        toy.weight = lambda *shape: toy.const(toy.random.standard_normal(shape).astype(np.float16))  # type: ignore[method-assign]
    x = toy.op("Concat", toy.weight(1, 1, 8), x, axis=1)
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
def test_beside_an_attention_node_the_weights_are_those_of_the_operator(rank: int, mask: str, softcap: float) -> None:
    model, weights = operator_graph(rank=rank, mask=mask, softcap=softcap)
    seam = resolve(model, "encoder_output")
    assert seam.signals["cls_attention"].kind == "query_key"
    values = [emit_signal(model, seam, name) for name in ("cls_attention", "received_attention")]
    feeds = {"x": np.random.default_rng(2).standard_normal((1, 6, 8)).astype(np.float32)}
    cls, received, whole = run(model, feeds, [*values, weights])
    np.testing.assert_allclose(cls, whole[:, :, 0, 1:].mean(1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(received, whole[..., 1:].mean((1, 2)), rtol=1e-5, atol=1e-7)


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
    values = [emit_signal(model, seam, name) for name in ("cls_attention", "received_attention", "keys")]
    feeds = {"x": np.random.default_rng(2).standard_normal((1, 3, 8)).astype(np.float32)}
    cls, received, mean, all_weights, all_keys = run(model, feeds, [*values, weights, keys])
    all_weights = all_weights.reshape(1, 2, 4, 4)
    np.testing.assert_allclose(cls, all_weights[:, :, 0, 1:].mean(1), rtol=1e-6)
    np.testing.assert_allclose(received, all_weights[..., 1:].mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(mean, all_keys.reshape(1, 4, 2, 4).mean(2)[:, 1:], rtol=1e-5, atol=1e-6)


def test_half_precision_attention_gives_float32_signals() -> None:
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
    values = [emit_signal(model, seam, name) for name in ("cls_attention", "received_attention")]
    for found in run(model, {"x": np.ones((1, 6, 8), np.float32)}, values):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.full((1, 6), 1 / 7), rtol=1e-3)


@pytest.mark.parametrize("rank", [3, 4])
def test_half_precision_attention_node_gives_float32_signals(rank: int) -> None:
    model, weights = operator_graph(rank=rank, half=True)
    seam = resolve(model, "encoder_output")
    assert seam.dtype == "float16"
    values = [emit_signal(model, seam, name) for name in ("cls_attention", "received_attention")]
    feeds = {"x": np.random.default_rng(2).standard_normal((1, 6, 8)).astype(np.float32)}
    cls, received, whole = run(model, feeds, [*values, weights])
    assert cls.dtype == received.dtype == np.float32
    np.testing.assert_allclose(cls, whole[:, :, 0, 1:].astype(np.float32).mean(1), rtol=1e-2)
    np.testing.assert_allclose(received, whole[..., 1:].astype(np.float32).mean((1, 2)), rtol=1e-2)


def test_a_dynamic_batch_works() -> None:
    toy = Toy()
    x = toy.block(toy.op("Relu", toy.input("x", "batch", 5, 8)), 8, 2)
    model = toy.output(toy.op("MatMul", x, toy.weight(8, 4)))
    seam = find_seams(model)[0]
    value = emit_signal(model, seam, "keys")
    (found,) = run(model, {"x": np.ones((3, 5, 8), np.float32)}, [value])
    assert found.shape == (3, 5, 4)
