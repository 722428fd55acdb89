"""Simplifiers and ONNX Runtime's basic optimiser join steps: the same seams and signals are found as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, by_name, example, exported, run
from tokexport.graph_passes.compress import compress

N, D, H = 16, 8, 2
SIGNALS = {"cls_attention", "keys", "received_attention"}


def basic(model: ir.Model, folder: Path) -> ir.Model:
    ort = pytest.importorskip("onnxruntime")
    ir.save(model, folder / "before.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = str(folder / "after.onnx"), 3
    ort.InferenceSession(folder / "before.onnx", options)
    return ir.load(folder / "after.onnx")


def simplified(model: ir.Model, folder: Path) -> ir.Model:
    return ir.from_proto(pytest.importorskip("onnxsim").simplify(ir.to_proto(model))[0])


def slimmed(model: ir.Model, folder: Path) -> ir.Model:
    return ir.from_proto(pytest.importorskip("onnxslim").slim(ir.to_proto(model)))


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("change", [basic, simplified, slimmed])
def test_signals_outlive_it(tmp_path: Path, change: Callable[[ir.Model, Path], ir.Model], dynamo: bool) -> None:
    model = exported("llava", dynamo=dynamo)
    model.ir_version = 10
    inputs = {model.graph.inputs[0].name: example("llava")}
    changed = change(model, tmp_path)
    assert set(by_name(changed)["encoder_output"].signals) == SIGNALS
    (expected,) = run(
        compress(exported("llava", dynamo=dynamo), "topk", keep=5, seam="encoder_output", outputs=()), inputs
    )
    (got,) = run(compress(changed, "topk", keep=5, seam="encoder_output", outputs=()), inputs)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("turned", [True, False])
def test_heads_and_batch_joined_in_one_step(turned: bool) -> None:
    """Without the transpose before it, the step mixes the channels of several tokens."""
    toy = Toy()
    x = toy.op("MatMul", toy.input("tokens", 1, N, D), toy.weight(D, D))
    x = toy.block(x, D, H)
    q, k, v = (
        toy.op(
            "Transpose", toy.op("Reshape", toy.op("MatMul", x, toy.weight(D, D)), toy.const([1, N, H, D // H])), perm=p
        )
        for p in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    mixed = toy.op("MatMul", toy.op("Softmax", toy.op("MatMul", q, k), axis=-1), v)
    if turned:
        mixed = toy.op("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = toy.op("Reshape", mixed, toy.const([N, D]))
    else:
        mixed = toy.op("Reshape", toy.op("Reshape", mixed, toy.const([H, N * D // H])), toy.const([N, D]))
    mixed = toy.op("Reshape", toy.op("MatMul", mixed, toy.weight(D, D)), toy.const([1, N, D]))
    model = toy.output(toy.op("Identity", toy.op("Add", x, mixed), name="y"))
    assert bool(by_name(model)["encoder_output"].signals) is turned
