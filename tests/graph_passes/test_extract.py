from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokexport.errors import RequestError
from tokexport.graph_passes.ir_tools.extract import extract
from toy_vit import run, text, toy_vit


def test_tail_of_head_is_the_model() -> None:
    model = toy_vit()
    before = text(model)
    head, tail = extract(model, ["encoded"])
    assert [v.name for v in head.graph.inputs] == ["pixels"]
    assert [v.name for v in tail.graph.inputs] == ["encoded"]
    assert [v.name for v in tail.graph.outputs] == ["out"]
    assert list(tail.graph.inputs[0].shape) == [1, 17, 8]
    np.testing.assert_array_equal(run(tail, run(head))["out"], run(model)["out"])
    assert text(model) == before


def test_every_node_is_in_one_part_and_weights_are_shared() -> None:
    model = toy_vit()
    head, tail = extract(model, ["encoded"])
    assert len(head.graph) + len(tail.graph) == len(model.graph)
    assert tail.graph.initializers["wp1"].const_value is model.graph.initializers["wp1"].const_value
    assert "wp1" not in head.graph.initializers and "embed" not in tail.graph.initializers


def test_a_path_that_bypasses_the_split_is_computed_again_from_the_graph_inputs() -> None:
    model = toy_vit(outputs="float[1,16,12] out, float[1,16,8] e")
    head, tail = extract(model, ["encoded"])
    assert [v.name for v in tail.graph.inputs] == ["encoded", "pixels"]
    feeds = {"pixels": np.ones((1, 16, 6), np.float32)}
    whole = run(model, feeds)
    parts = run(tail, {**run(head, feeds), **feeds})
    assert set(parts) == {"out", "e"}
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array)


def test_several_tensors_keep_their_order() -> None:
    head, tail = extract(toy_vit(), ["encoded", "probs1"])
    assert [v.name for v in head.graph.outputs] == ["encoded", "probs1"]
    assert [v.name for v in tail.graph.inputs] == ["encoded", "probs1"]


def test_split_value_that_is_an_output_is_input_and_output_of_the_tail() -> None:
    model = toy_vit(outputs="float[1,17,8] encoded, float[1,16,12] out")
    head, tail = extract(model, ["encoded"])
    results = run(tail, run(head))
    np.testing.assert_array_equal(results["encoded"], run(model)["encoded"])


def test_functions_go_where_they_are_called() -> None:
    source = """<ir_version: 10, opset_import: ["" : 18, "f" : 1]> g (float[2] x) => (float[2] z) {
                y = f.a(x) z = f.b(y) }
                <domain: "f", opset_import: ["" : 18, "f" : 1]> a (p) => (q) { q = f.c(p) }
                <domain: "f", opset_import: ["" : 18]> b (p) => (q) { q = Abs(p) }
                <domain: "f", opset_import: ["" : 18]> c (p) => (q) { q = Neg(p) }"""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(source)))
    head, tail = extract(model, ["y"])
    assert sorted(key[1] for key in head.functions) == ["a", "c"]
    assert [key[1] for key in tail.functions] == ["b"]
    assert run(tail, run(head, {"x": np.array([1, -2], np.float32)}))["z"].tolist() == [1, 2]


def test_value_that_a_subgraph_reads_stays_in_its_part() -> None:
    source = """<ir_version: 10, opset_import: ["" : 18]> g (float[2] x, bool c) => (float[2] z) {
        y = Neg(x) u = Abs(x)
        z = If<then_branch = t () => (float[2] a) { a = Add(y, u) },
               else_branch = e () => (float[2] b) { b = Abs(y) }>(c) }"""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(source)))
    head, tail = extract(model, ["y"])
    assert [v.name for v in tail.graph.inputs] == ["y", "x", "c"]
    feeds = {"x": np.array([1, -2], np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(run(tail, {**run(head, feeds), **feeds})["z"], run(model, feeds)["z"])


def test_missing_shapes_are_inferred() -> None:
    model = toy_vit()
    for node in model.graph:
        for output in node.outputs:
            if output.name != "out":
                output.shape = output.type = None
    _, tail = extract(model, ["encoded"])
    assert list(tail.graph.inputs[0].shape) == [1, 17, 8]


def test_unknown_tensor_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="encoded") as caught:
        extract(toy_vit(), ["encoder"])
    assert "'encoder'" in str(caught.value)


@pytest.mark.parametrize(("tensors", "word"), [([], "no tensor"), (["e", "e"], "twice"), (["wp1"], "constant")])
def test_bad_requests(tensors: list[str], word: str) -> None:
    with pytest.raises(RequestError, match=word):
        extract(toy_vit(), tensors)
