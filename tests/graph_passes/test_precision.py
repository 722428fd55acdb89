"""A float32 graph in half precision: types, islands with reasons, casts at their borders."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes import forms
from tokexport.graph_passes.precision import half as precision
from tokexport.graph_passes.precision.ranges import find_islands
from tokexport.graph_passes.seams.seam import METADATA_KEY, Seam
from toy_graph import FLOAT, Toy, block

HALF, BF16 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16


def run(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})


def types(model: ir.Model) -> dict[str, ir.DataType | None]:
    return {o.name or "": o.dtype for node in model.graph for o in node.outputs}


def casts(model: ir.Model) -> list[str]:
    return [node.outputs[0].name or "" for node in model.graph if node.op_type == "Cast"]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_block_in_float16_agrees_and_keeps_float32_outside() -> None:
    x = np.random.default_rng(1).standard_normal((1, 6, 8), dtype=np.float32)
    model = block()
    (expected,) = run(model, x)
    report = precision.to_half(model)
    (got,) = run(model, x)
    assert got.dtype == np.float32
    assert cosine(got, expected) > 0.99999
    assert 0 < np.abs(got - expected).max() < 1e-2
    assert set(report.islands) == {"n_normal", "n_weights"}
    assert "squares" in report.islands["n_normal"]
    assert "softmax" in report.islands["n_weights"]


def test_every_value_has_the_type_it_should_have() -> None:
    model = block()
    report = precision.to_half(model)
    found = types(model)
    assert {found[name] for name in ("q", "k", "v", "kt", "scores", "scaled", "mixed", "residual", "hidden")} == {HALF}
    assert found["scaled.float32"] == found["weights.float32"] == FLOAT
    assert found["weights"] == HALF  # read in float16 only: the float16 one keeps the name
    assert found["y"] == FLOAT
    weights = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert weights == {
        **dict.fromkeys(("wq", "wk", "wv", "wi", "scale"), HALF),
        **dict.fromkeys(("g", "b"), FLOAT),
        "rows": ir.DataType.INT64,
    }
    assert report.weights == 5
    assert sorted(casts(model)) == ["normal", "scaled.float32", "weights", "x.float16", "y"]
    assert report.casts == 5


def test_bfloat16_types() -> None:
    model = block()
    report = precision.to_half(model, "bfloat16")
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert types(model)["residual"] == model.graph.initializers["wq"].dtype == BF16
    assert report.dtype == "bfloat16"


def test_typed_io_takes_the_type_without_casts() -> None:
    x = np.random.default_rng(1).standard_normal((1, 6, 8), dtype=np.float32)
    model = block()
    precision.to_half(model, typed_io=["x", "y"])
    (got,) = run(model, x.astype(np.float16))
    assert got.dtype == np.float16
    # x is read by an island as well.
    assert sorted(casts(model)) == ["normal", "scaled.float32", "weights", "x.float32"]


def test_an_output_that_the_graph_reads_too_is_read_by_its_name() -> None:
    t = Toy(1, 4)
    first = t.op("Relu", t.x, name="first")
    model = t.model(first, t.op("Neg", first, name="second"))
    precision.to_half(model)
    by_name = {o.name: o for node in model.graph for o in node.outputs}
    assert by_name["first"].dtype == FLOAT
    reader = next(node for node in model.graph if node.op_type == "Neg").inputs[0]
    assert reader is not None and reader.producer().inputs[0] is by_name["first"]  # type: ignore[union-attr]


def test_overflowing_sum_is_named_becomes_an_island_and_so_does_its_reader() -> None:
    t = Toy(1, 2, 2048)
    big = t.op("MatMul", t.x, t.const("w", np.full((2048, 4), 10.0)), name="big")
    small = t.op("Mul", big, t.const("tiny", 1e-2), name="small")
    model = t.model(t.op("Relu", small, name="y"))
    found = find_islands(model, {"x": np.full((1, 2, 2048), 10, np.float32)})
    assert list(found) == ["n_big", "n_small"]
    assert "2.048e+05" in found["n_big"]
    report = precision.to_half(model, islands=found)
    assert report.islands == found
    result = types(model)
    assert (result["big"], result["small.float32"], result["small"]) == (FLOAT, FLOAT, HALF)
    assert model.graph.initializers["w"].dtype == FLOAT


@pytest.mark.parametrize(("constant", "reason"), [(1e-12, "1e-12 does not fit"), (-3.4e38, "-3.4e+38 does not fit")])
def test_constants_that_float16_loses_make_islands(constant: float, reason: str) -> None:
    t = Toy(1, 4)
    model = t.model(t.op("Add", t.x, t.const("c", constant), name="y"))
    assert reason in precision.to_half(model).islands["n_y"]
    assert types(model)["y"] == FLOAT


def test_hand_made_rms_norm_stays_whole() -> None:
    t = Toy(1, 6, 8)
    x = t.op("Mul", t.x, t.const("twice", 2.0), name="hidden")
    mean = t.op("ReduceMean", t.op("Mul", x, x, name="square"), t.const("axis", np.array([-1])), name="mean")
    root = t.op("Sqrt", t.op("Add", mean, t.const("eps", 1e-6), name="safe"), name="root")
    model = t.model(t.op("Div", x, root, name="y"))
    report = precision.to_half(model)
    assert set(report.islands) == {"n_square", "n_mean", "n_safe", "n_root"}
    assert sorted(casts(model)) == ["hidden.float32", "root", "x.float16", "y"]


def test_angles_and_indices_are_computed_in_float32_from_the_start() -> None:
    t = Toy(1, 8)
    positions = t.op("Mul", t.const("table", np.arange(8.0)), t.const("step", 0.37), name="angle")
    turned = t.op("Mul", t.x, t.op("Cos", positions, name="cos"), name="turned")
    index = t.op("Cast", t.op("Mul", t.const("grid", np.arange(8.0)), t.const("half", 0.5), name="where"),
                 name="index", to=ir.DataType.INT64)  # fmt: skip
    model = t.model(t.op("Gather", turned, index, name="y", axis=1))
    report = precision.to_half(model)
    assert set(report.islands) == {"n_angle", "n_cos", "n_where", "n_index"}


def test_what_comes_from_the_inputs_is_not_dragged_into_an_island() -> None:
    t = Toy(1, 8)
    model = t.model(t.op("Sin", t.op("Relu", t.x, name="a"), name="y"))
    assert set(precision.to_half(model).islands) == {"n_y"}


def test_exact_integers_stay_in_float32_and_masks_do_not() -> None:
    t = Toy(1, 8)
    whole = t.op("Cast", t.op("Shape", t.x, name="shape"), name="whole", to=FLOAT)
    mask = t.op("Cast", t.op("Greater", t.x, t.const("zero", 0.0), name="positive"), name="mask", to=FLOAT)
    model = t.model(t.op("Mul", mask, t.op("ReduceMax", whole, name="most"), name="y"))
    report = precision.to_half(model)
    assert report.islands == {"n_whole": "integers stay exact"}
    assert types(model)["mask"] == HALF
    run(model, np.ones((1, 8), np.float32))


def test_empty_casts_are_dropped() -> None:
    t = Toy(1, 4)
    upcast = t.op("Cast", t.op("Relu", t.x, name="a"), name="upcast", to=FLOAT)
    model = t.model(t.op("Neg", upcast, name="y"))
    precision.to_half(model)
    assert sorted(casts(model)) == ["x.float16", "y"]


def test_constant_read_in_both_types_exists_twice() -> None:
    t = Toy(1, 4)
    shared = t.const("shared", np.ones(4))
    model = t.model(t.op("Add", t.op("LayerNormalization", t.x, shared, name="n"), shared, name="y"))
    precision.to_half(model)
    assert {name: v.dtype for name, v in model.graph.initializers.items()} == {"shared": FLOAT, "shared.float16": HALF}
    run(model, np.ones((1, 4), np.float32))


def test_constant_nodes_and_types_in_attributes_follow() -> None:
    t = Toy(1, 4)
    two = ir.node("Constant", [], {"value_float": 2.0}, name="n_two")
    two.outputs[0].name = "two"
    t.nodes.append(two)
    filled = t.op("ConstantOfShape", t.const("shape", np.array([1, 4])), name="filled",
                  value=ir.tensor(np.array([3], np.float32)))  # fmt: skip
    model = t.model(t.op("Add", t.op("Mul", t.x, two.outputs[0], name="m"), filled, name="y"))
    precision.to_half(model)
    assert types(model)["filled"] == HALF
    (got,) = run(model, np.ones((1, 4), np.float32))
    np.testing.assert_array_equal(got, np.full((1, 4), 5, np.float32))


def test_what_the_opset_has_no_type_for_stays_in_float32() -> None:
    """ConstantOfShape gives bfloat16 from opset 20 on."""
    t = Toy(1, 4)
    shape = t.const("shape", np.array([1, 4]))
    filled = t.op("ConstantOfShape", shape, name="filled", value=ir.tensor(np.array([3], np.float32)))
    model = t.model(t.op("Add", t.x, filled, name="y"))
    assert model.graph.opset_imports[""] < 20
    report = precision.to_half(model, "bfloat16")
    assert any("no bfloat16 ConstantOfShape" in why for why in report.islands.values())
    node = next(node for node in model.graph if node.op_type == "ConstantOfShape")
    assert node.outputs[0].dtype == ir.DataType.FLOAT and types(model)["filled"] == ir.DataType.BFLOAT16


def test_large_weights_are_converted_when_read_and_name_themselves_when_they_overflow() -> None:
    t = Toy(1, 100)
    reads: list[int] = []

    def load() -> ir.Tensor:
        reads.append(1)
        return ir.tensor(np.full((100, 100), 1e5, np.float32))

    w = t.const("w", np.zeros((100, 100)))
    w.const_value = ir.LazyTensor(load, dtype=FLOAT, shape=ir.Shape((100, 100)), name="w")
    graph = ir.Graph([t.x], [t.op("MatMul", t.x, w, name="y")], nodes=t.nodes, initializers=[w],
                     opset_imports={"": 18}, name="toy")  # fmt: skip
    graph.outputs[0].type, graph.outputs[0].shape = ir.TensorType(FLOAT), ir.Shape((1, 100))
    precision.to_half(ir.Model(graph, ir_version=10))
    assert not reads
    tensor = graph.initializers["w"].const_value
    assert tensor is not None and tensor.dtype == HALF
    with pytest.raises(GraphError, match=r"100000 does not fit float16.*'w'"):
        tensor.numpy()


def test_seams_in_the_metadata_follow_their_tensors() -> None:
    model = block()
    seams = [Seam("encoder_output", name, 6, 8).to_json() for name in ("residual", "y")]
    model.metadata_props[METADATA_KEY] = json.dumps(seams)
    precision.to_half(model)
    assert [s["dtype"] for s in json.loads(model.metadata_props[METADATA_KEY])] == ["float16", "float32"]


def test_casts_carry_the_scope_of_the_module_they_belong_to() -> None:
    model = block()
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = f"['', '{node.name}']"
    precision.to_half(model)
    cast = next(node for node in model.graph if node.outputs[0].name == "normal")
    assert cast.metadata_props["pkg.torch.onnx.name_scopes"] == "['', 'n_normal']"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"dtype": "fp16"}, "'fp16'.*float16"),
        ({"islands": ["n_normall"]}, "no node 'n_normall'.*n_normal"),
        ({"typed_io": ["z"]}, "no graph input or output 'z'"),
    ],
)
def test_wrong_requests_are_named(keywords: dict[str, Sequence[str]], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        precision.to_half(block(), **keywords)  # type: ignore[arg-type]


def test_a_value_without_a_type_is_refused() -> None:
    t = Toy(1, 4)
    strange = t.op("Strange", t.x, name="strange")
    t.nodes[-1].domain = "elsewhere"
    graph = ir.Graph([t.x], [t.op("Relu", strange, name="y")], nodes=t.nodes, opset_imports={"": 18, "elsewhere": 1})
    with pytest.raises(GraphError, match=r"'strange' has no type.*elsewhere::Strange"):
        precision.to_half(ir.Model(graph, ir_version=10))


def test_unknown_operators_stay_in_float32() -> None:
    t = Toy(1, 4)
    strange = t.op("Strange", t.op("Relu", t.x, name="a"), name="strange")
    t.nodes[-1].domain = "elsewhere"
    strange.type, strange.shape = t.x.type, t.x.shape
    y = t.op("Relu", strange, name="y")
    t.nodes[0].outputs[0].type = y.type = t.x.type
    y.shape = t.nodes[0].outputs[0].shape = t.x.shape
    model = ir.Model(
        ir.Graph([t.x], [y], nodes=t.nodes, opset_imports={"": 18, "elsewhere": 1}, name="toy"), ir_version=10
    )
    assert precision.to_half(model).islands == {"n_strange": "elsewhere has no float16 Strange"}
    assert types(model)["a"] == HALF
    assert types(model)["strange.float32"] == FLOAT


def test_fused_attention_is_one_half_precision_operator() -> None:
    t = Toy(1, 2, 6, 8)
    model = t.model(t.op("Attention", t.x, t.x, t.x, name="y"), opset=23)
    assert precision.to_half(model).islands == {}
    (attention,) = (node for node in model.graph if node.op_type == "Attention")
    assert attention.outputs[0].dtype == HALF
    assert not attention.attributes
    run(model, np.ones((1, 2, 6, 8), np.float32))


def test_functions_and_subgraphs_are_refused() -> None:
    model = block()
    value = ir.val("t")
    node = ir.node("Relu", [value])
    body = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 18}, name="f")
    model.functions[("d", "f", "")] = ir.Function("d", "f", graph=body, attributes=())
    with pytest.raises(GraphError, match=r"local functions.*function f"):
        precision.to_half(model)
    precision.to_half(forms.to_inlined(model))

    t = Toy(1, 4)
    branch = [ir.Graph([], [n.outputs[0]], nodes=[n], name=f"g{i}") for i in range(2)
              for n in [ir.node("Relu", [t.x], name=f"r{i}")]]  # fmt: skip
    for graph in branch:
        graph.outputs[0].type, graph.outputs[0].shape = t.x.type, t.x.shape
    y = t.op("If", t.const("yes", np.array(True)), name="y", then_branch=branch[0], else_branch=branch[1])
    with pytest.raises(GraphError, match=r"If holds a subgraph.*n_y"):
        precision.to_half(t.model(y))
