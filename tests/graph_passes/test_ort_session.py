"""A graph in ONNX Runtime: what is missing, or wrong with it, is said in our words."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError, MissingError
from tokexport.graph_passes.ir_tools.ort_session import open_session
from toy_graph import Toy


def product(weight: np.ndarray) -> ir.Model:
    t = Toy(1, 4)
    return t.model(t.op("MatMul", t.x, t.const("w", weight), name="y"))


def test_threads_and_external_weights(tmp_path: Path) -> None:
    ir.save(product(np.eye(4)), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=1)
    session = open_session(ir.load(tmp_path / "m.onnx"), threads=1)
    assert session.get_session_options().intra_op_num_threads == 1
    assert session.run(None, {"x": np.ones((1, 4), np.float32)})[0].tolist() == [[1, 1, 1, 1]]


def test_without_onnxruntime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match="tokexport\\[ort\\]"):
        open_session(product(np.eye(4)))


def test_a_graph_that_it_refuses() -> None:
    model = product(np.eye(4))
    model.graph.node(0).op_type = "NoSuchOperator"
    with pytest.raises(GraphError, match=r"ONNX Runtime refuses the graph.*NoSuchOperator"):
        open_session(model)


def test_weights_in_several_folders(tmp_path: Path) -> None:
    models = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ir.save(product(np.eye(4)), tmp_path / name / "m.onnx", external_data="m.data", size_threshold_bytes=1)
        models.append(ir.load(tmp_path / name / "m.onnx"))
    models[0].graph.register_initializer(ir.Value(name="v", const_value=models[1].graph.initializers["w"].const_value))
    with pytest.raises(GraphError, match="2 folders"):
        open_session(models[0])
