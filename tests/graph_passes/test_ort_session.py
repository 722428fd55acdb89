"""A graph in ONNX Runtime: what is missing, or wrong with it, is said in our words."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError, MissingError
from tokexport.graph_passes.ir_tools import ort_session
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


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_weights_in_memory_are_read_where_they_are(packed: bool, turned: bool) -> None:
    """Also transposed ones, as torch holds them; the model itself keeps its own."""
    weight = np.random.default_rng(0).standard_normal((24, 24)).astype(np.float32)
    t = Toy(1, 24)
    model = t.model(t.op("MatMul", t.x, t.const("w", weight.T if turned else weight), name="y"))
    tensor = ir.Tensor(weight.T if turned else weight)
    model.graph.initializers["w"].const_value = tensor
    _, held = ort_session._without_weights(model)
    assert [np.shares_memory(array, weight) for array in held.values()] == [True]
    session = open_session(model, packed=packed)
    x = np.arange(24, dtype=np.float32)[None]
    gc.collect()
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ tensor.numpy(), rtol=1e-4, atol=1e-4)
    assert model.graph.initializers["w"].const_value is tensor


def test_weights_stay_as_long_as_their_session() -> None:
    """ONNX Runtime has no more than an address; here what it would read after that is gone is another array."""
    t = Toy(1, 24)
    model = t.model(t.op("MatMul", t.x, t.const("w", np.ones((24, 24), np.float32)), name="y"))
    model.graph.initializers["w"].const_value = ir.LazyTensor(
        lambda: ir.Tensor(np.ones((24, 24), np.float32)), dtype=ir.DataType.FLOAT, shape=ir.Shape((24, 24))
    )
    session = open_session(model, packed=False)
    del model, t
    gc.collect()
    others = [np.full((24, 24), 7, np.float32) for _ in range(64)]
    assert (session.run(None, {"x": np.ones((1, 24), np.float32)})[0] == 24).all() and len(others) == 64


def test_a_weight_that_is_turned_beside_a_transpose_is_read_in_its_new_order() -> None:
    """ONNX Runtime spares the Transpose by turning what is added."""
    weight = np.random.default_rng(0).standard_normal((1, 24, 40)).astype(np.float32)
    t = Toy(1, 40, 24)
    turned = t.op("Transpose", t.x, perm=[0, 2, 1], name="turned")
    model = t.model(t.op("Transpose", t.op("Add", turned, t.const("w", weight), name="sum"), perm=[0, 2, 1], name="y"))
    x = np.random.default_rng(1).standard_normal((1, 40, 24)).astype(np.float32)
    (got,) = open_session(model).run(None, {"x": x})
    np.testing.assert_allclose(got, x + weight.transpose(0, 2, 1), rtol=1e-6)
