"""Graphs as ONNX Runtime's optimiser and quantisers leave them: seams and signals are those of the plain graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, by_name, example, exported, run
from tokexport.errors import GraphError
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.precision.half import to_half
from tokexport.graph_passes.seams.find import resolve

ort = pytest.importorskip("onnxruntime")
N, D, H = 16, 8, 2
SIGNALS = {"cls_attention", "keys", "received_attention"}


def extended(source: Path, target: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.log_severity_level = str(target), 3
    ort.InferenceSession(source, options)


def dynamic(source: Path, target: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target)


def qdq(source: Path, target: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Once(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{ir.load(source).graph.inputs[0].name: example("llava")}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quantize_static(source, target, Once())


def nbits(source: Path, target: Path) -> None:
    import onnx

    quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    made = quantizer.MatMulNBitsQuantizer(onnx.load(source), 4, 32, True)
    made.process()
    made.model.save_model_to_file(str(target))


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize(
    ("change", "operator", "close"),
    [
        (extended, "SkipLayerNormalization", 1e-5),
        (dynamic, "MatMulInteger", 5e-3),
        (qdq, "DequantizeLinear", 1e-5),
        (nbits, "MatMulNBits", 1e-5),
    ],
)
def test_kept_tokens_are_what_they_were(tmp_path, change, operator, close, dynamo) -> None:
    model = exported("llava", dynamo=dynamo)
    model.ir_version = 10
    ir.save(model, tmp_path / "plain.onnx")
    change(tmp_path / "plain.onnx", tmp_path / "changed.onnx")
    inputs = {model.graph.inputs[0].name: example("llava")}
    assert any(node.op_type == operator for node in ir.load(tmp_path / "changed.onnx").graph)
    (whole,) = run(ir.load(tmp_path / "changed.onnx"), inputs)
    short, kept, *_ = run(
        compress(ir.load(tmp_path / "changed.onnx"), "uniform", keep=5, seam="encoder_output"), inputs
    )
    np.testing.assert_allclose(short[0], whole[0, kept[0]], atol=close)
    seam = by_name(ir.load(tmp_path / "changed.onnx"))["encoder_output"]
    assert (seam.tokens, seam.prefix) == (N, 1)
    assert set(seam.signals) == SIGNALS or (change, dynamo) in ((dynamic, True), (dynamic, False), (extended, False))


def fused(kind: str, *, mask: bool = False) -> ir.Model:
    """tokens [1, N, D] -> two layers whose attention is one operator of com.microsoft -> y."""
    toy = Toy()
    toy.model.opset_imports["com.microsoft"] = 1
    x = toy.op("MatMul", toy.input("tokens", 1, N, D), toy.weight(D, D))
    padding = toy.input("padding", 1, N, dtype=ir.DataType.INT32) if mask else None
    for layer in range(2):
        if kind == "Attention":
            operands = [x, toy.weight(D, 3 * D), toy.weight(3 * D)]
        else:
            operands = [toy.op("MatMul", x, toy.weight(D, D), name=f"{one}{layer}") for one in "qkv"]
            operands += [None, padding] if mask else []
        mixed = toy.op(kind, *operands, num_heads=H)
        mixed.producer().domain = "com.microsoft"
        x = toy.op("Add", x, toy.op("MatMul", mixed, toy.weight(D, D)), name=f"mid{layer}")
        x = toy.op("Add", x, toy.op("MatMul", toy.op("Relu", x), toy.weight(D, D)), name=f"out{layer}")
    return toy.output(toy.op("Identity", x, name="y"))


def repeated() -> dict[str, np.ndarray]:
    rows = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
    return {"tokens": rows[[0] * 12 + [1, 2, 3, 4]][None]}


@pytest.mark.parametrize("kind", ["Attention", "MultiHeadAttention"])
def test_equal_tokens_that_are_merged_keep_their_weight(kind: str) -> None:
    model = fused(kind)
    seam = replace(resolve(model, "tensor:out0"), name="encoder_layer:0")
    done = insert(model, seam, make("kcenter_merge"), 5)
    assert len(done.biased) == 1
    (whole,) = run(fused(kind), repeated())
    short, kept, *_ = run(model, repeated())
    np.testing.assert_allclose(short[0], whole[0, kept[0]], rtol=1e-4, atol=1e-5)


def test_its_queries_and_keys_are_signals() -> None:
    signals = by_name(fused("MultiHeadAttention"))["encoder_output"].signals
    assert set(signals) == {"keys", "received_attention"}
    model = compress(fused("MultiHeadAttention"), "audio_topk", keep=4, seam="encoder_output")
    short, kept, *_ = run(model, repeated())
    plain = fused("MultiHeadAttention")
    whole, q, k = run(plain, repeated(), [plain.graph.outputs[0], *_named(plain, "q1", "k1")])
    heads = [part.reshape(N, H, D // H).transpose(1, 0, 2) for part in (q, k)]
    logits = heads[0] @ heads[1].transpose(0, 2, 1) * (D // H) ** -0.5
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    received = (weights / weights.sum(-1, keepdims=True)).mean((0, 1))
    np.testing.assert_allclose(np.sort(received[kept[0]]), np.sort(received)[-4:], rtol=1e-4)
    np.testing.assert_allclose(short[0], whole[0, kept[0]], rtol=1e-4, atol=1e-5)


def _named(model: ir.Model, *names: str) -> list[ir.Value]:
    found = {value.name: value for node in model.graph for value in node.outputs}
    return [found[name] for name in names]


def test_projections_inside_the_operator_give_no_signal() -> None:
    assert by_name(fused("Attention"))["encoder_output"].signals == {}


def test_a_padding_mask_is_refused() -> None:
    with pytest.raises(GraphError, match="may be padding: MultiHeadAttention"):
        compress(fused("MultiHeadAttention", mask=True), "uniform", keep=4, seam="encoder_output")


def test_a_quantised_file_keeps_its_precision(tmp_path: Path) -> None:
    model = exported("llava")
    model.ir_version = 10
    ir.save(model, tmp_path / "plain.onnx")
    dynamic(tmp_path / "plain.onnx", tmp_path / "changed.onnx")
    with pytest.raises(GraphError, match=r"DynamicQuantizeLinear.*--precision fp32"):
        to_half(ir.load(tmp_path / "changed.onnx"))
