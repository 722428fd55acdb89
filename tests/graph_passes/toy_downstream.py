"""Graphs from ONNX text with tokens [1, 9, 8] (one prefix token) that become [1, 4, 8], and what the proof says."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from tokexport.errors import GraphError
from tokexport.graph_passes.resize.plan import prove_downstream

OLD, NEW = 9, 4


def model(body: str, weights: str = "", *, y: str = "float y", x: str = "float[1,9,8] x", opset: int = 18) -> ir.Model:
    """A graph from ONNX text: input x carries the tokens on axis 1."""
    imports = f'"" : {opset}, "com.microsoft" : 1'
    text = f"<ir_version: 10, opset_import: [{imports}]> g ({x}) => ({y}) <{weights}> {{ {body} }}"
    proto = onnx.parser.parse_model(text)
    for output in proto.graph.output:  # A bare `float y` says rank 0.
        output.type.tensor_type.ClearField("shape")
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def prove(m: ir.Model, *, axis: int = 1, prefix: int = 1) -> list[str]:
    return prove_downstream(m, m.graph.inputs[0], axis, OLD, NEW, prefix=prefix)


def run(m: ir.Model, seed: int = 0) -> list[np.ndarray]:
    """Run in ONNX Runtime and check that every declared output shape is what comes out."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(m).SerializeToString(), options)
    rng = np.random.default_rng(seed)
    feeds = {
        v.name: rng.standard_normal([d if isinstance(d, int) else 2 for d in v.shape]).astype(np.float32)
        for v in m.graph.inputs
    }
    results = session.run(None, feeds)
    for value, result in zip(m.graph.outputs, results):
        assert [d for d in value.shape if isinstance(d, int)] == [
            size for size, d in zip(result.shape, value.shape) if isinstance(d, int)
        ]
    return results


def accept(m: ir.Model, shape: list[int], *, rewritten: int = 0, **how: int) -> list[str]:
    lines = prove(m, **how)
    assert len(lines) == rewritten, lines
    assert list(run(m)[0].shape) == shape
    return lines


def refuse(m: ir.Model, *words: str, **how: int) -> None:
    before = onnx.printer.to_text(ir.to_proto(m))
    with pytest.raises(GraphError) as caught:
        prove(m, **how)
    for word in words:
        assert word in str(caught.value)
    assert onnx.printer.to_text(ir.to_proto(m)) == before, "a refusal leaves the graph as it was"
