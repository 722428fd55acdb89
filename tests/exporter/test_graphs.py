"""How the graphs of a bundle are typed, and what is said about what was decided for the user."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tokexport.exporter.bundling import graphs
from tokexport.exporter.opening import open_source
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.sequence import Step
from tokexport.graph_passes.ir_tools.input_shapes import fix_inputs
from tokexport.graph_passes.precision import ranges


def test_every_graph_is_asked_for_its_ranges_with_what_really_reaches_it(monkeypatch):
    asked = []

    def islands(model, samples):
        asked.append((model.graph.name, samples))
        return {}

    monkeypatch.setattr(ranges, "find_islands", islands)
    source = open_source("tiny-vlm", parts="all")
    plan = graphs.Plan(source, (Step(make("uniform", {}), None, 12),), "all", "auto")
    built = graphs.build(plan, "fp16", lambda text: None)
    assert [role for role, _ in asked] == ["encoder", "embed", "prefill", "decode"]
    assert all(len(samples) == 3 for _, samples in asked)
    example = {graph.role: graph.inputs for graph in built.language}
    (prefill,) = [samples for role, samples in asked if role == "prefill"]
    assert not np.allclose(prefill[0]["inputs_embeds"], np.asarray(example["prefill"]["inputs_embeds"]))
    assert {note.split(":")[0] for note in built.notes} >= {"embed", "prefill", "decode"}


def test_a_batch_that_was_dynamic_is_told():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 3]))
    node = ir.Node("", "Relu", [x])
    node.outputs[0].name = "y"
    model = ir.Model(ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 18}), ir_version=10)
    (note,) = fix_inputs(model, {"x": [1, 3]})
    assert "input x" in note and "[n, 3]" in note
    assert list(node.outputs[0].shape) == [1, 3]
    assert fix_inputs(model, {"x": [1, 3]}) == []
