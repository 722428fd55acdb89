"""What the tests share is what torch exports; a graph that differs in anything is exported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnx_ir as ir  # noqa: E402
import shared_exports  # noqa: E402
from tokexport.exporter.opening import open_source  # noqa: E402
from tokexport.exporter.sources.torch_export import export_graph  # noqa: E402


def embed(keep: int = 21):
    return open_source("tiny-vlm", parts="all").language(keep)[0]


def test_the_second_is_a_copy_with_the_same_bytes_and_a_life_of_its_own():
    calls = []
    export = shared_exports.sharing(lambda graph, opset: calls.append(graph) or export_graph(graph, opset))
    first = export(embed())
    wanted = ir.to_proto(export_graph(embed())).SerializeToString(deterministic=True)
    first.graph.inputs[0].name = "changed"
    second = export(embed())
    assert ir.to_proto(second).SerializeToString(deterministic=True) == wanted and len(calls) == 1


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
        replace(one, inputs=inputs),
    ]
    assert len({shared_exports.identity(kind, 18) for kind in kinds}) == len(kinds)
    assert shared_exports.identity(one, 18) == shared_exports.identity(embed(), 18) != shared_exports.identity(one, 19)


def test_modules_of_users_are_exported_each_time():
    class Own(torch.nn.Module):
        def forward(self, x):
            return x + 1

    graph = replace(embed(), module=Own().eval(), inputs={"x": torch.zeros(1, 2)}, outputs=("y",))
    calls = []
    export = shared_exports.sharing(lambda graph, opset: calls.append(graph) or np.zeros(1))
    export(graph), export(graph)
    assert len(calls) == 2
