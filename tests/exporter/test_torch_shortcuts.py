"""What torch.onnx need not do is left out, the graph computes the same, and torch keeps its own way."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

from tokexport.exporter.sources import torch_shortcuts  # noqa: E402
from tokexport.exporter.sources.source import GraphSource  # noqa: E402
from tokexport.exporter.sources.torch_export import export_graph  # noqa: E402

X = torch.arange(12, dtype=torch.float32).reshape(1, 3, 4) - 5.5


class Written(torch.nn.Module):
    """A module of one expression."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.forward = forward


KNOWN = {
    "a cast that changes nothing": lambda x: x.to(torch.float32) * 2,
    "a cast": lambda x: x.to(torch.int64) * 2,
    "a cast back": lambda x: x.to(torch.float16).to(torch.float32) + 1,
    "a reshape that changes nothing": lambda x: x.reshape(1, 3, 4) + 1,
    "a reshape": lambda x: x.reshape(1, 4, 3) + 1,
    "a convolution without padding": lambda x: torch.nn.functional.conv2d(x[None], X[None, :, :2, :2], padding="valid"),
}
TRACED_AGAIN = {
    "what writes into its input": lambda x: (x * 1).fill_(x[0, 0, 0] * 3) + x,
    "an operator that torch.onnx lacks": lambda x: (x > 0) & (x < 3),
    "a cast that changes nothing of the result": lambda x: (x + 1).to(torch.float32),
    "a cast of the result": lambda x: (x + 1).to(torch.int64),
}


@pytest.fixture
def traced_again(monkeypatch):
    """The programs that torch decomposed."""
    from torch.onnx._internal.exporter import _fx_passes

    programs, own = [], _fx_passes.decompose_with_registry

    def counted(program, registry):
        programs.append(program)
        return own(program, registry)

    monkeypatch.setattr(_fx_passes, "decompose_with_registry", counted)
    yield programs
    assert _fx_passes.decompose_with_registry is counted


def exported(forward) -> ir.Model:
    model = export_graph(GraphSource("embed", Written(forward).eval(), {"x": X}, ("y",)))
    (got,) = ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(["y"], {"x": X.numpy()})
    np.testing.assert_allclose(got, forward(X).numpy(), rtol=1e-6)
    assert got.dtype == forward(X).numpy().dtype
    return model


@pytest.mark.parametrize("name", KNOWN)
def test_operators_that_torch_onnx_has_are_written_as_they_are(name, traced_again):
    model = exported(KNOWN[name])
    assert not traced_again
    assert ("changes nothing" in name) == (not {"Cast", "Reshape", "Conv"} & {node.op_type for node in model.graph})


@pytest.mark.parametrize("name", TRACED_AGAIN)
def test_others_go_the_way_of_torch(name, traced_again):
    exported(TRACED_AGAIN[name])
    assert len(traced_again) == 1


def test_what_nobody_reads_is_left_out():
    model = exported(lambda x: (x.sin(), x + 1)[1])
    assert [node.op_type for node in model.graph] == ["Add"]


def test_the_table_of_operators_is_made_once_and_torch_keeps_its_own_way(monkeypatch):
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made, make = [], vars(ONNXRegistry)["from_torchlib"]
    counting = classmethod(lambda cls, *a, **options: made.append(options) or make.__func__(cls, *a, **options))
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", counting)
    monkeypatch.setattr(torch_shortcuts, "_registries", {})
    source = GraphSource("embed", torch.nn.ReLU().eval(), {"x": X}, ("y",))
    first, second = (ir.to_proto(export_graph(source)) for _ in range(2))
    assert len(made) == 1 and first.SerializeToString() == second.SerializeToString()
    assert vars(ONNXRegistry)["from_torchlib"] is counting
