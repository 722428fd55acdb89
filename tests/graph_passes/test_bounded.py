"""Every graph is read in bounded time: cycles are refused by name, and nothing doubles from node to node."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tokexport
from click.testing import CliRunner
from onnx import helper
from tokexport.errors import GraphError, RequestError
from tokexport.exporter.cli import main
from tokexport.graph_passes import recipes
from tokexport.graph_passes.ir_tools.model_io import load_model
from tokexport.graph_passes.ir_tools.walk import Walk
from tokexport.graph_passes.seams.find import describe
from tokexport.graph_passes.seams.scopes import Scopes

X = helper.make_tensor_value_info("x", 1, [1, 12, 8])


def model(nodes: list, y: str, *, shape=(1, 12, 8), functions=(), **arrays: np.ndarray) -> onnx.ModelProto:
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "main", [X], [helper.make_tensor_value_info(y, 1, shape)], initializer=weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)


def function(name: str, *calls: str) -> onnx.FunctionProto:
    """A function of the domain `d` that calls others one after the other."""
    names = ["a", *(f"v{i}" for i in range(len(calls) - 1)), "b"]
    nodes = [helper.make_node(call, [names[i]], [names[i + 1]], domain="d") for i, call in enumerate(calls)]
    return helper.make_function("d", name, ["a"], ["b"], nodes, [helper.make_opsetid("d", 1)])


def branch(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    body = helper.make_graph(list(nodes), "branch", [], [helper.make_tensor_value_info("q", 1, [1, 12, 8])])
    return model([helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)], "y", c=np.array(True))


ADD = helper.make_node("Add", ["x", "b"], ["a"], name="add")
RELU = helper.make_node("Relu", ["a"], ["b"], name="relu")
CYCLES = {
    "two nodes": (model([ADD, RELU], "b"), "'add' reads 'relu' reads 'add'"),
    "itself": (model([helper.make_node("Add", ["x", "a"], ["a"], name="own")], "a"), "'own' reads 'own'"),
    "a branch": (
        branch(helper.make_node("Add", ["x", "q"], ["p"]), helper.make_node("Relu", ["p"], ["q"])),
        "'Add' reads 'Relu' reads 'Add'",
    ),
    "around a branch": (branch(helper.make_node("Add", ["x", "y"], ["q"], name="in")), "'If' reads 'If'"),
    "functions": (
        model(
            [helper.make_node("f", ["x"], ["y"], domain="d")], "y", functions=[function("f", "g"), function("g", "f")]
        ),
        r"d\.f calls d\.g calls d\.f",
    ),
}


@pytest.mark.parametrize("kind", CYCLES)
def test_cycles_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    proto, named = CYCLES[kind]
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(GraphError, match=f"cycle.*{named}"):
        load_model(tmp_path / "m.onnx")
    with pytest.raises(GraphError, match=named):
        tokexport.compress(proto, "uniform", keep=3, seam="tensor:x")


def test_a_graph_that_was_not_loaded_by_us_does_not_hang_either() -> None:
    circle = [helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]
    with pytest.raises(GraphError, match="which a later node computes"):
        describe(ir.from_proto(model([*circle, helper.make_node("MatMul", ["x", "b"], ["y"])], "y")))


def test_a_cycle_among_many_nodes_is_shown_in_short(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(3000)]
    nodes.append(helper.make_node("Add", ["x", "v3000"], ["v0"]))
    onnx.save(model(nodes, "v3000"), tmp_path / "m.onnx")
    with pytest.raises(GraphError, match="2997 more") as caught:
        load_model(tmp_path / "m.onnx")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("first", ["weight", "shape"])
def test_integers_that_double_at_every_node(first: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], axis=0) for i in range(40)]
    nodes.append(helper.make_node("Reshape", ["x", "v40"], ["y"]))
    given = {"v0": np.array([1, 2])} if first == "weight" else {}
    if not given:
        nodes.insert(0, helper.make_node("Shape", ["x"], ["v0"]))
    onnx.save(model(nodes, "y", shape=None, **given), tmp_path / "m.onnx")
    start = time.process_time()
    assert describe(load_model(tmp_path / "m.onnx"))["nodes"] == len(nodes)
    assert time.process_time() - start < 5


def test_integers_that_double_inside_of_functions(tmp_path: Path) -> None:
    body = [
        helper.make_node("Concat", [f"v{i}" if i else "a"] * 2, [f"v{i + 1}" if i < 4 else "b"], axis=0)
        for i in range(5)
    ]
    double = helper.make_function("d", "double", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    nodes = [helper.make_node("double", [f"w{i}"], [f"w{i + 1}"], domain="d") for i in range(10)]
    nodes.append(helper.make_node("Reshape", ["x", "w10"], ["y"]))
    onnx.save(model(nodes, "y", shape=None, functions=[double], w0=np.array([1, 2])), tmp_path / "m.onnx")
    start = time.process_time()
    describe(load_model(tmp_path / "m.onnx"))
    assert time.process_time() - start < 5


def test_functions_that_double_at_every_level(tmp_path: Path) -> None:
    functions = [function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(40)] + [function("f40", "Relu")]
    calls = [helper.make_node("f0", ["x"], ["y"], domain="d")]
    onnx.save(model(calls, "y", functions=functions), tmp_path / "m.onnx")
    with pytest.raises(GraphError, match="expand to more than"):
        load_model(tmp_path / "m.onnx")


def test_sixty_thousand_nodes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(60_000)]
    onnx.save(model(nodes, "v60000"), tmp_path / "m.onnx")
    start = time.process_time()
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.onnx"), "--json"])
    assert result.exit_code == 0, result.output
    # A core of today needs three seconds.
    assert time.process_time() - start < 10


def test_paths_that_double_at_every_node() -> None:
    nodes = [helper.make_node("Add", [f"v{i}" if i else "x"] * 2, [f"v{i + 1}"]) for i in range(200)]
    start = time.process_time()
    tokexport.compress(model(nodes, "v200", shape=None), "uniform", keep=3, seam="tensor:v100")
    assert time.process_time() - start < 10


def attribute(**fields: object) -> onnx.NodeProto:
    """A Cast to float with one attribute more."""
    node = helper.make_node("Cast", ["x"], ["y"], name="cast", to=1)
    node.attribute.append(onnx.AttributeProto(**fields))
    return node


def relu(**changes: object) -> onnx.NodeProto:
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    for key, value in changes.items():
        if isinstance(value, list):
            getattr(node, key)[:] = value
    return node


DAMAGED = {
    "reads nothing": ([relu(input=["z"])], "'relu' reads 'z', which nothing computes"),
    "two outputs": ([relu(output=["y", "z"])], "'relu' has 2 outputs, and Relu has 1"),
    "no output": ([relu(), relu(output=[])], "'relu' has no output"),
    "another attribute type": (
        [helper.make_node("Concat", ["x", "x"], ["y"], axis="1")],
        "'axis'.* is of the type STRING",
    ),
    "no attribute": ([helper.make_node("Concat", ["x", "x"], ["y"])], "no attribute 'axis'"),
    "an attribute without a type": ([attribute()], "attribute '' of node 'cast' has no type"),
    "an attribute that is no text": (
        [attribute(name="round_mode", type=3, s=b"\xff")],
        r"'round_mode' of node 'cast' is b'\\xff', which is no text",
    ),
    "a tensor among others": (
        [attribute(name="a", type=9, tensors=[onnx.TensorProto(dims=[2], data_type=1, float_data=[1])])],
        "attribute 'a' of node 'cast' (holds|cannot be read)",
    ),
    "an equation that inference never comes back from": (
        [helper.make_node("Einsum", ["x", "x"], ["y"], name="product", equation="bn\0\0e")],
        r"the equation of node 'product' is 'bn\\x00",
    ),
    "no such result": ([relu(output=["z"])], "output 'y' is computed by nothing"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_nodes_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    nodes, says = DAMAGED[kind]
    onnx.save(model(nodes, "y"), tmp_path / "m.onnx")
    with pytest.raises(GraphError, match=f"damaged.*{says}"):
        load_model(tmp_path / "m.onnx")


def test_damaged_tensors_are_refused_by_name(tmp_path: Path) -> None:
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], "y", w=np.ones(8, np.float32))
    proto.graph.initializer[0].dims[0] = 9
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(GraphError, match="tensor 'w'"):
        load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data_type": 0}, "tensor 'w' has no type"),
        ({"data_type": onnx.TensorProto.STRING}, "tensor 'w' holds texts, and its data is in a file of its own"),
        ({"offset": "-8"}, "offset must be non-negative"),
        ({"length": "8.5"}, "invalid literal"),
        ({"location": "w\0bin"}, r"external data 'w\\x00bin' cannot be opened: embedded null byte"),
        ({"location": "w" * 300}, "cannot be opened: File name too long"),
    ],
)
def test_damaged_tensors_in_a_file_of_their_own(change: dict, says: str, tmp_path: Path) -> None:
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], "y", w=np.ones(8, np.float32))
    tensor = proto.graph.initializer[0]
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location, tensor.data_type = onnx.TensorProto.EXTERNAL, change.get("data_type", 1)
    for key, value in ({"location": "w.bin"} | {k: v for k, v in change.items() if k != "data_type"}).items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(GraphError, match=says):
        load_model(tmp_path / "m.onnx")


TEXTS = {
    "producer_name": (b"producer", "producer_name"),
    "the name of a value": (b"features", "graph.value_info.name"),
    "an operator": (b"Relu", "graph.node.op_type"),
    "an input": (b"given", "graph.input.name"),
    "the name of a tensor": (b"weight", "graph.initializer.name"),
    "a dimension": (b"batch", "graph.input.type.tensor_type.shape.dim.dim_param"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_that_are_no_utf_8_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    right, named = TEXTS[kind]
    nodes = [helper.make_node("Relu", ["given"], ["features"]), helper.make_node("Add", ["features", "weight"], ["y"])]
    proto = model(nodes, "y", weight=np.ones(8, np.float32))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("given", 1, ["batch", 12, 8]))
    proto.graph.value_info.append(helper.make_tensor_value_info("features", 1, [1, 12, 8]))
    proto.producer_name = "producer"
    content = proto.SerializeToString()
    load_model_of(content, tmp_path)
    wrong = content.replace(right, right[:-1] + b"\xff")
    with pytest.raises(GraphError, match=rf"damaged: {named} b'.*\\xff' is no text"):
        load_model_of(wrong, tmp_path)
    with pytest.raises(GraphError, match="is no text"):
        tokexport.compress(onnx.ModelProto.FromString(wrong), "uniform", keep=3, seam="tensor:features")


def load_model_of(content: bytes, folder: Path) -> ir.Model:
    (folder / "m.onnx").write_bytes(content)
    return load_model(folder / "m.onnx")


def test_a_model_in_memory_that_cannot_be_read_is_refused() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], "y")
    proto.graph.input[0].type.tensor_type.elem_type = 999
    with pytest.raises(GraphError, match="not an ONNX model"):
        tokexport.compress(proto, "uniform", keep=3, seam="tensor:x")


def test_an_operator_on_a_type_that_it_does_not_take_has_no_shape(tmp_path: Path) -> None:
    proto = model([helper.make_node("Cast", ["x"], ["c"], to=12), helper.make_node("Tanh", ["c"], ["y"])], "y")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(proto, tmp_path / "m.onnx")
    assert describe(load_model(tmp_path / "m.onnx"))["nodes"] == 2


def test_numbers_of_more_digits_than_python_reads() -> None:
    long, node = "9" * 5000, helper.make_node("Relu", ["x"], ["y"])
    scopes = Scopes(Walk(ir.from_proto(model([node], "y"))))
    attention = SimpleNamespace(node=scopes.walk.nodes[0])
    scopes.paths[attention.node] = f"encoder.layers.{long}.attention"
    assert scopes.layers([attention]) == {}
    with pytest.raises(RequestError, match="has no parameter"):
        recipes.load("vscan").made({f"{long}.grid": "3"})


def test_a_text_is_no_integer_to_work_out(tmp_path: Path) -> None:
    text = helper.make_tensor("t", onnx.TensorProto.STRING, [1], [b"a"])
    nodes = [helper.make_node("Constant", [], ["t"], value=text), helper.make_node("Concat", ["t", "t"], ["s"], axis=0)]
    onnx.save(model([*nodes, helper.make_node("Relu", ["x"], ["y"])], "y"), tmp_path / "m.onnx")
    assert describe(load_model(tmp_path / "m.onnx"))["nodes"] == 3
