"""A module becomes a graph: names, static shapes, no trace of this machine, and one paragraph where it cannot."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

from tokexport.errors import GraphError, MissingError  # noqa: E402
from tokexport.exporter.sources import torch_export  # noqa: E402
from tokexport.exporter.sources.source import GraphSource  # noqa: E402
from tokexport.exporter.sources.torch_export import export_graph  # noqa: E402
from tokexport.graph_passes.seams.find import find_seams, write_seams  # noqa: E402


class Sum(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 6)

    def forward(self, x, scale):
        y = self.inner(x)
        return y * scale, y.sum(-1)


def source(module, role="embed", outputs=("y",), **inputs) -> GraphSource:
    return GraphSource(role, module, inputs or {"x": torch.ones(1, 3, 4)}, outputs)


@pytest.fixture(scope="module")
def summed() -> tuple[GraphSource, ir.Model]:
    torch.manual_seed(0)
    graph = source(Sum(), outputs=("scaled", "total"), x=torch.randn(1, 3, 4), scale=torch.tensor([2.0]))
    return graph, export_graph(graph)


def test_the_graph_computes_what_the_module_does_under_the_names_of_the_source(summed):
    graph, model = summed
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    feeds = {name: x.numpy() for name, x in graph.inputs.items()}
    for got, wanted in zip(session.run(["scaled", "total"], feeds), graph.module(*graph.inputs.values())):
        np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-6, atol=1e-6)
    assert [list(value.shape) for value in model.graph.outputs] == [[1, 3, 6], [1, 3]]
    assert model.opset_imports[""] == 18 and model.ir_version == 10 and model.graph.name == "embed"


def test_nodes_keep_their_module_and_nothing_of_this_machine(summed):
    _, model = summed
    text = ir.to_proto(model).SerializeToString()
    assert b"pkg.torch.onnx.name_scopes" in text and b"'inner'" in text
    for trace in (
        str(Path.cwd()),
        str(Path(__file__).parent),
        sys.prefix,
        "stack_trace",
        'File "',
        "range_constraints",
    ):
        assert trace.encode() not in text


def test_the_same_module_gives_the_same_bytes(summed):
    graph, model = summed
    again = ir.to_proto(export_graph(graph)).SerializeToString(deterministic=True)
    assert again == ir.to_proto(model).SerializeToString(deterministic=True)


def test_weights_stay_in_the_storage_of_the_module():
    module = torch.nn.Linear(64, 64)
    model = export_graph(source(module, x=torch.randn(1, 3, 64)))
    weights = {
        int(value.const_value.numpy().__array_interface__["data"][0]) for value in model.graph.initializers.values()
    }
    assert {module.weight.data_ptr(), module.bias.data_ptr()} <= weights


def test_an_encoder_carries_its_seams(tiny_whisper_encoder_onnx):
    seams = {seam.name: seam for seam in find_seams(ir.load(tiny_whisper_encoder_onnx))}
    assert {seam.found_by for seam in seams.values()} == {"metadata"}
    assert seams["encoder_output"].tokens == 100 and seams["encoder_output"].grid == (100,)


def test_the_grid_that_the_source_knows_stands_over_a_guess(tiny_llava_encoder_onnx):
    model = ir.load(tiny_llava_encoder_onnx)
    assert {seam.grid for seam in find_seams(model)} == {(6, 6)}
    write_seams(model, grid=(4, 9))
    assert {seam.grid for seam in find_seams(model)} == {(4, 9)}
    write_seams(model, grid=(5, 9))
    assert {seam.grid for seam in find_seams(model)} == {(6, 6)}


def test_only_encoders_are_searched_for_seams(summed):
    assert not summed[1].metadata_props


def test_the_terminal_and_the_loggers_are_left_alone(capfd):
    before = logging.root.manager.disable
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_graph(source(torch.nn.GELU()))
        with pytest.raises(GraphError):
            export_graph(source(Branches()))
    assert capfd.readouterr() == ("", "") and not caught
    assert logging.root.manager.disable == before and not isinstance(sys.stderr, torch_export._OtherThreads)


class Branches(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Masks(torch.nn.Module):
    def forward(self, x):
        return x[x > 0]


class Exotic(torch.nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Branches(), "GuardOnDataDependentSymNode.*Control flow that depends on the values"),
        (Masks(), r"output y has the shape \[u0\].*top-k"),
        (Exotic(), "bessel_j0.*operators that ONNX has"),
    ],
)
def test_what_cannot_be_exported_is_one_paragraph_with_the_cause(module, said):
    with pytest.raises(GraphError, match=said) as caught:
        export_graph(source(module))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert type(module).__name__ in str(caught.value)


def test_another_number_of_outputs_than_announced_is_refused():
    with pytest.raises(GraphError, match=r"outputs \['scaled'.*\['scaled'\] were announced"):
        export_graph(source(Sum(), outputs=("scaled",), x=torch.randn(1, 3, 4), scale=torch.ones(1)))


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(torch_export, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r'torch and onnxscript are needed.*pip install "tokexport\[export\]"'):
        export_graph(source(torch.nn.GELU()))


def test_a_progress_bar_in_another_thread_still_writes(capsys):
    with torch_export._quiet():
        print("from torch", file=sys.stderr)
        other = threading.Thread(target=print, args=("50 %",), kwargs={"file": sys.stderr})
        other.start()
        other.join()
    assert capsys.readouterr().err == "50 %\n"
