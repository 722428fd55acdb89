"""The proof itself, on a graph written by hand beside its module: each break of the graph must show in its part."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from tokexport.errors import GraphError, MissingError
from tokexport.exporter.proof import parity
from tokexport.exporter.proof.encoder_probes import encoder_probes
from tokexport.exporter.sources.source import GraphSource
from tokexport.exporter.sources.texts import with_text
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.seams.seam import Seam
from tokexport.runtimes.ort.graph import ort_runner
from torch import nn

N, D, KEEP = 6, 4, 3
_BEHIND = """<ir_version: 10, opset_import: ["" : 18]> toy (float[1,7,4] x) => (float[1,6,4] out) {
    h = MatMul(x, w1)
    cls = Slice(h, zero, one, one) patches = Slice(h, one, end, one)
    both = Add(patches, cls) out = MatMul(both, w2)
}"""
_AT_THE_END = """<ir_version: 10, opset_import: ["" : 18]> toy (float[1,6,4] x) => (float[1,6,4] h, float[1,6,4] out) {
    h = MatMul(x, w1) out = MatMul(h, w2)
}"""


class Toy(nn.Module):
    """The module beside both graphs."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.prefix = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False), prefix

    def forward(self, x):
        h = self.first(x)
        return self.second(h[:, 1:] + h[:, :1]) if self.prefix else (h, self.second(h))


def case(prefix: int, method: str = "kcenter_merge"):
    """(model with a compressor at h, what was inserted, its source, the compressor)."""
    module = Toy(prefix).eval()
    proto = onnx.parser.parse_model(_BEHIND if prefix else _AT_THE_END)
    arrays = {"w1": module.first.weight.detach().numpy().T, "w2": module.second.weight.detach().numpy().T}
    if prefix:
        arrays |= {"zero": np.array([0]), "one": np.array([1]), "end": np.array([2**63 - 1])}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array.copy(), name) for name, array in arrays.items())
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    compressor = make(method, {"score": "norm"} if method == "topk" else {})
    place = Seam("encoder_output", "h", N, D, prefix=prefix, module="first")
    inserted = insert(model, place, compressor, KEEP)
    outputs = ("out",) if prefix else ("h", "out")
    return model, inserted, GraphSource("encoder", module, {}, outputs), compressor


def prove(model, inserted, source, compressor, scale: float = 1.0):
    """The checks by (part, tensor)."""
    rows = N + inserted.seam.prefix
    x = scale * np.random.default_rng(0).standard_normal((1, rows, D)).astype(np.float32)
    probes = encoder_probes(source, model, inserted, with_text([{"x": x}], model), ort_runner)
    return {(c.part, c.tensor): c for c in parity.check(probes, {"encoder": model}, ort_runner, "fp32")}


@pytest.mark.parametrize("method", ["kcenter_merge", "trim"])
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_right_graph_is_proved_in_every_part(prefix, method):
    checks = prove(*case(prefix, method))
    assert {part for part, _ in checks} == {"head", "compressor", "tail"}
    assert all(check.ok for check in checks.values()), checks


def test_a_prefix_put_back_wrongly_fails_the_tail():
    model, inserted, source, compressor = case(1)
    (concat,) = [node for node in model.graph if node.op_type == "Concat"]
    first, second = concat.inputs
    concat.replace_input_with(0, second)
    concat.replace_input_with(1, first)
    checks = prove(model, inserted, source, compressor)
    assert [part for (part, _), check in checks.items() if not check.ok] == ["tail"]


def test_a_result_beside_the_compressed_tokens_is_proved_too():
    model, inserted, source, compressor = case(0)
    model.graph.initializers["w2"].const_value = ir.tensor(np.eye(D, dtype=np.float32))
    checks = prove(model, inserted, source, compressor)
    assert [key for key, check in checks.items() if not check.ok] == [("tail", "out")]


def test_prefix_tokens_are_part_of_the_head():
    model, inserted, source, compressor = case(1)
    assert ("head", inserted.tokens_in) in prove(model, inserted, source, compressor)


def test_equal_tokens_prove_no_compressor():
    checks = prove(*case(0), scale=0.0)
    (check,) = [check for (part, _), check in checks.items() if part == "compressor"]
    assert not check.ok and "prove nothing" in check.detail


def test_an_empty_proof_is_none():
    with pytest.raises(GraphError, match="nothing to prove"):
        parity.check([], {}, ort_runner, "fp32")


def test_a_torch_that_is_broken_is_missing_and_no_bug(monkeypatch):
    model, inserted, source, _ = case(0, "topk")
    x = np.random.default_rng(0).standard_normal((1, N, D)).astype(np.float32)
    probes = encoder_probes(source, model, inserted, [{"x": x}], ort_runner)
    # Importing a name that is bound to None raises ImportError, as a torch without its libraries does.
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(parity, "find_spec", lambda name: object())
    with pytest.raises(MissingError, match=r"torch is installed and cannot be imported.*force-reinstall torch"):
        parity.check(probes, {"encoder": model}, ort_runner, "fp32")


@pytest.mark.parametrize("method", ["topk", "kcenter_merge"])
def test_without_torch_the_sizes_are_compared_with_the_stored_ones(method, monkeypatch):
    model, inserted, source, _ = case(0, method)
    x = np.random.default_rng(0).standard_normal((1, N, D)).astype(np.float32)
    probes = encoder_probes(source, model, inserted, [{"x": x}], ort_runner)
    monkeypatch.setattr(parity, "find_spec", lambda name: None)
    checks = parity.check(probes, {"encoder": model}, ort_runner, "fp32")
    assert all(check.ok for check in checks)
    sizes = inserted.outputs["sizes"]
    (probe,) = [probe for probe in probes if probe.part == "compressor"]
    probe.expected[sizes] = probe.expected[sizes] + np.float32(0.5)
    bad = [check.tensor for check in parity.check(probes, {"encoder": model}, ort_runner, "fp32") if not check.ok]
    assert bad == [sizes]
