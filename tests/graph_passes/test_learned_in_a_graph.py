"""Weights of learned compressors in a graph: initializers beside the node, never in its body."""

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.compressors.blocks import weights
from tokexport.graph_passes.insertion.insert import insert
from toy_vit import encoder_output, text, toy_vit


def test_weights_lie_in_the_graph_in_the_dtype_of_the_tokens_and_not_in_the_body(tmp_path):
    np.savez(tmp_path / "w.npz", weight=np.ones((8, 8, 4), np.float32), bias=np.arange(8, dtype=np.float32))
    model, seam = toy_vit(), encoder_output()
    assert seam.dim == 8
    compressor = make("conv1d", {"weights": str(tmp_path / "w.npz")})
    done = insert(model, seam, compressor, (seam.tokens - 4) // 4 + 1)
    node = next(node for node in model.graph if node.name == done.node_name)
    weight, bias = node.inputs[1:]
    assert weight.name in model.graph.initializers and weight.const_value.numpy().shape == (8, 8, 4)
    assert bias.const_value.numpy().tolist() == list(range(8)) and bias.dtype == ir.DataType.FLOAT
    # No folder of this machine goes into a model.
    assert done.params["weights"] == "w.npz" and str(tmp_path) not in str(node.metadata_props)
    (function,) = model.functions.values()
    assert len(function.inputs) == 3


def test_a_file_that_does_not_fit_leaves_the_graph_as_it_was(tmp_path):
    np.savez(tmp_path / "w.npz", weight=np.ones((3, 3, 4), np.float32), bias=np.ones(3, np.float32))
    model, seam = toy_vit(), encoder_output()
    model.ir_version = 10
    before = text(model)
    with pytest.raises(RequestError, match=r"array 'weight' is \[3, 3, 4\]"):
        insert(model, seam, make("conv1d", {"weights": str(tmp_path / "w.npz")}), (seam.tokens - 4) // 4 + 1)
    assert text(model) == before


def test_a_file_of_weights_is_read_once(tmp_path, monkeypatch):
    np.savez(tmp_path / "w.npz", weight=np.ones((8, 8, 4), np.float32), bias=np.ones(8, np.float32))
    reads = []
    load = weights.load_weights
    monkeypatch.setattr(weights, "load_weights", lambda *given: reads.append(given) or load(*given))
    seam = encoder_output()
    insert(toy_vit(), seam, make("conv1d", {"weights": str(tmp_path / "w.npz")}), (seam.tokens - 4) // 4 + 1)
    assert len(reads) == 1


def test_slots_without_positions_are_refused_inside_an_encoder(tmp_path):
    model, seam = toy_vit(), encoder_output(name="encoder_layer:0")
    with pytest.raises(RequestError, match=r"slots of qformer have no positions.*encoder_output"):
        insert(model, seam, make("qformer"), 2)
