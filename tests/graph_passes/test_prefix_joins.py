"""Tokens that join the patches otherwise than in a Concat with parameters: the prefix is found, or refused."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from exported_models import Toy, by_name, run
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.compress import compress

D, N = 8, 16


def layers(toy: Toy, x: ir.Value, count: int = 2) -> ir.Value:
    for _ in range(count):
        x = toy.block(x, D, 2)
    return x


def sliced(toy: Toy, x: ir.Value, start: int, end: int) -> ir.Value:
    return toy.op("Slice", x, toy.const([start]), toy.const([end]), toy.const([1]))


def sequence(toy: Toy, x: ir.Value) -> ir.Value:
    parts = toy.op("SequenceConstruct", toy.weight(1, 1, D), x)
    parts.type = ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))
    joined = toy.op("ConcatFromSequence", parts, axis=1)
    joined.shape, joined.dtype = ir.Shape([1, N + 1, D]), ir.DataType.FLOAT
    return joined


def registers_dropped(toy: Toy, x: ir.Value) -> ir.Value:
    x = layers(toy, toy.op("Concat", toy.weight(1, 5, D), x, axis=1))
    return toy.op("Concat", sliced(toy, x, 0, 1), sliced(toy, x, 5, N + 5), axis=1)


def registers_gathered(toy: Toy, x: ir.Value) -> ir.Value:
    x = layers(toy, toy.op("Concat", toy.weight(1, 5, D), x, axis=1))
    return toy.op("Gather", x, toy.const([0, *range(5, N + 5)]), axis=1)


def dropped_inside(toy: Toy, x: ir.Value) -> ir.Value:
    """EViT: behind half of the layers CLS and those patches go on that a score picks."""
    x = layers(toy, toy.op("Concat", toy.weight(1, 1, D), toy.op("Concat", x, x, axis=1), axis=1))
    patches = sliced(toy, x, 1, 2 * N + 1)
    norms = toy.op("ReduceL2", patches, toy.const([2]), keepdims=0)
    top = ir.node("TopK", [norms, toy.const([N])], {"axis": 1}, num_outputs=2)
    top.outputs[0].name, top.outputs[1].name = "best", "picked"
    toy.graph.append(top)
    index = toy.op("Expand", toy.op("Unsqueeze", top.outputs[1], toy.const([2])), toy.const([1, N, D]))
    return toy.op("Concat", sliced(toy, x, 0, 1), toy.op("GatherElements", patches, index, axis=1), axis=1)


def padded(toy: Toy, x: ir.Value) -> ir.Value:
    """CLS is a row of zeros; its parameter is in the table of positions."""
    return toy.op("Add", toy.op("Pad", x, toy.const([0, 1, 0, 0, 0, 0])), toy.weight(1, N + 1, D))


def scattered(toy: Toy, x: ir.Value) -> ir.Value:
    places = np.stack([np.zeros((1, N), np.int64), np.arange(1, N + 1)[None]], -1)
    return toy.op("ScatterND", toy.weight(1, N + 1, D), toy.const(places), x)


def by_a_matrix(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("MatMul", toy.const(np.eye(N + 1, N, -1, dtype=np.float32)), x)


def mean_in_front(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("Concat", toy.op("ReduceMean", x, toy.const([1])), x, axis=1)


def prompt(toy: Toy, x: ir.Value) -> ir.Value:
    return toy.op("Concat", toy.input("prompt", 1, 2, D), x, axis=1)


def tower(join) -> ir.Model:
    toy = Toy()
    x = join(toy, toy.op("MatMul", toy.input("tokens", 1, N, 6), toy.weight(6, D)))
    return toy.output(toy.op("Identity", layers(toy, x, 3), name="y"))


@pytest.mark.parametrize("join", [sequence, registers_dropped, registers_gathered, dropped_inside])
def test_what_is_left_of_a_prefix_is_known_behind_any_number_of_layers(join) -> None:
    model = tower(join)
    seam = by_name(model)["encoder_output"]
    assert (seam.prefix, seam.tokens, seam.valid) == (1, N, True)
    feeds = {"tokens": np.random.default_rng(0).standard_normal((1, N, 6)).astype(np.float32)}
    before = run(model, feeds)[0]
    after, kept = run(compress(model, "uniform", keep=4), feeds)[:2]
    np.testing.assert_allclose(after, np.concatenate([before[:, :1], before[:, 1 + kept[0]]], 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("join", [padded, scattered, by_a_matrix, mean_in_front, prompt])
def test_tokens_of_which_nothing_is_known_are_refused_with_the_node(join) -> None:
    with pytest.raises((RequestError, GraphError), match=r"not shown where the other \d stand.*torch\.cat") as error:
        compress(tower(join), "kcenter_merge", keep=4)
    op = {padded: "Pad", scattered: "ScatterND", by_a_matrix: "MatMul"}.get(join, "Concat")
    assert f"{op} " in str(error.value)


@pytest.mark.parametrize("op", ["a branch", "a function"])
def test_a_join_inside_a_subgraph_or_a_function_is_refused(op: str) -> None:
    proto = ir.to_proto(tower(lambda toy, x: toy.op("Concat", toy.weight(1, 1, D), x, axis=1)))
    node = next(node for node in proto.graph.node if node.op_type == "Concat")
    cls, x, joined = *node.input, node.output[0]
    inner = onnx.helper.make_node("Concat", ["a", "b"] if op == "a function" else [cls, x], ["inner"], axis=1)
    info = onnx.helper.make_tensor_value_info("inner", 1, [1, N + 1, D])
    if op == "a function":
        new = onnx.helper.make_node("join", [cls, x], [joined], domain="d")
        opset = onnx.helper.make_opsetid("", 20)
        proto.functions.append(onnx.helper.make_function("d", "join", ["a", "b"], ["inner"], [inner], [opset]))
        proto.opset_import.append(onnx.helper.make_opsetid("d", 1))
    else:
        branch = onnx.helper.make_graph([inner], "branch", [], [info])
        new = onnx.helper.make_node("If", ["sure"], [joined], then_branch=branch, else_branch=branch)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "sure"))
    node.CopyFrom(new)
    with pytest.raises((RequestError, GraphError), match="not shown where the other 1 stand"):
        compress(proto, "kcenter_merge", keep=4)


def test_scales_of_a_pyramid_are_all_patches() -> None:
    toy = Toy()
    large = toy.op("MatMul", toy.input("tokens", 1, N, 6), toy.weight(6, D))
    small = toy.patches(toy.input("image", 1, 3, 8, 8), D, 4)
    model = toy.output(toy.op("Identity", layers(toy, toy.op("Concat", large, small, axis=1)), name="y"))
    seam = by_name(model)["encoder_output"]
    assert (seam.prefix, seam.tokens, seam.valid) == (0, 20, True)


@pytest.mark.parametrize("kind", ["slices", "joins"])
def test_no_node_is_looked_at_twice(kind: str) -> None:
    """Each of these doubled the work."""

    def many(toy: Toy, x: ir.Value) -> ir.Value:
        for _ in range(25):
            x = sliced(toy, x, 0, N) if kind == "slices" else toy.op("Concat", x, x, axis=1)
        return sliced(toy, x, 0, N)

    start = time.perf_counter()
    assert by_name(tower(many))["encoder_output"].tokens == N
    assert time.perf_counter() - start < 10
