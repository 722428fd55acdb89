"""A built-in model's graph that is known is what torch exports; a graph that differs in anything is exported."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

import onnx_ir as ir  # noqa: E402
from tokexport.exporter.opening import open_source  # noqa: E402
from tokexport.exporter.sources import torch_export  # noqa: E402
from tokexport.exporter.sources.exported import exported, identity  # noqa: E402


def embed(keep: int = 21):
    return open_source("tiny-vlm", parts="all").language(keep)[0]


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """An empty cache folder, and the graphs that were exported."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    export = torch_export._export
    monkeypatch.setattr(torch_export, "_export", lambda graph, opset: made.append(graph) or export(graph, opset))
    return made


def written(model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


@pytest.mark.parametrize("role", ["encoder", "embed", "decode"])
def test_what_is_known_has_the_same_bytes_and_a_life_of_its_own(calls, role):
    source = open_source("tiny-vlm", parts="all")
    graph = next(one for one in (source.encoder, *source.language(21)) if one.role == role)
    first = torch_export.export_graph(graph)
    wanted = written(first)
    first.graph.inputs[0].name = "changed"
    assert written(torch_export.export_graph(graph)) == wanted and len(calls) == 1


def test_a_graph_that_differs_in_anything_is_another():
    one = embed()
    other = embed()
    with torch.no_grad():
        next(other.module.parameters()).view(-1)[3] += 1e-3
    inputs = {**one.inputs, "tokens": one.inputs["tokens"] + 1}
    kinds = [
        one,
        other,
        embed(22),
        replace(one, outputs=("renamed",)),
        replace(one, grid=(3, 7)),
        replace(one, placeholder="widen"),
        replace(one, role="prefill"),
        replace(one, inputs=inputs),
    ]
    assert len({identity(kind, 18) for kind in kinds}) == len(kinds)
    assert identity(one, 18) == identity(embed(), 18) != identity(one, 19)


def test_modules_of_users_are_exported_each_time(calls):
    class Own(torch.nn.Module):
        def forward(self, x):
            return x + 1

    graph = replace(embed(), module=Own().eval(), inputs={"x": torch.zeros(1, 2)}, outputs=("y",))
    exported(graph, 18, torch_export._export), exported(graph, 18, torch_export._export)
    assert len(calls) == 2
