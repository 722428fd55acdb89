"""The proof behind a seam, one rule each: what adds to tokens one by one, and what is not known."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from tokexport.graph_passes.resize import rules as rest_rules
from tokexport.graph_passes.resize.axis import Axis
from tokexport.graph_passes.resize.plan import plan_downstream
from toy_downstream import NEW, OLD, accept, model, refuse, run


def test_channel_weights_and_scalars_broadcast() -> None:
    m = model("h = Mul(x, w) y = Add(h, one)", "float[8] w = {1,2,3,4,5,6,7,8}, float one = {1}")
    accept(m, [1, 4, 8])
    assert list(m.graph.node(0).outputs[0].shape) == [1, 4, 8]


def test_position_table_is_refused_with_its_name() -> None:
    m = model("y = Add(x, pos)", f"float[1,9,1] pos = {{{','.join(map(str, range(9)))}}}")
    refuse(m, "Add", "pos", "9 tokens")


def test_uniform_table_is_shortened() -> None:
    m = model("y = Add(x, pos)", f"float[1,9,1] pos = {{{','.join('5' * 9)}}}")
    (line,) = accept(m, [1, 4, 8], rewritten=1)
    assert "pos" in line and "from 9 to 4" in line


def test_uniform_mask_is_shortened_on_both_axes() -> None:
    mask = f"float[1,1,9,9] mask = {{{','.join('0' * 81)}}}"
    body = "t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) u = Unsqueeze(s, one) y = Add(u, mask)"
    accept(model(body, mask + ", int64[1] one = {1}"), [1, 1, 4, 4], rewritten=1)


def test_expand_of_a_constant_is_shortened_without_touching_other_readers() -> None:
    body = "e = Expand(w, s) y = Add(x, e) z = Identity(e)"
    m = model(body, "float[1,1,8] w = {1,2,3,4,5,6,7,8}, int64[3] s = {1,9,8}", y="float y, float z")
    accept(m, [1, 4, 8], rewritten=1)
    assert run(m)[1].shape == (1, 9, 8)


def test_constant_of_shape_is_shortened() -> None:
    accept(model("e = ConstantOfShape(s) y = Add(x, e)", "int64[2] s = {9,8}"), [1, 4, 8], rewritten=1)


def test_computed_operand_of_the_old_size_is_refused() -> None:
    refuse(model("y = Add(x, z)", x="float[1,9,8] x, float[1,9,8] z"), "z", "not computed from")


def test_coincidence_of_sizes_is_not_a_token_axis() -> None:
    m = model(
        "h = MatMul(x, w) y = Add(h, b)", f"float[8,9] w = {{{','.join('1' * 72)}}}, float[9] b = {{1,2,3,4,5,6,7,8,9}}"
    )
    accept(m, [1, 4, 9])


def test_shifted_tokens_are_refused() -> None:
    body = "a = Slice(x, one, big, one) b = Concat<axis=1>(a, p) y = Add(x, b)"
    weights = "int64[1] one = {1}, int64[1] big = {9223372036854775807}, float[1,1,8] p = {0,0,0,0,0,0,0,0}"
    refuse(model(body, weights), "Add", "another span")


def test_unknown_operator_is_refused() -> None:
    refuse(model("y = Det(x)", x="float[1,9,9] x"), "Det", "not known")


def test_unknown_operator_after_pooling_is_accepted() -> None:
    body = "m = ReduceMean<keepdims=0>(x, a) r = Reshape(m, s) g = MatMul(r, t) y = Det(g)"
    weights = "int64[1] a = {1}, int64[3] s = {1,2,4}, float[1,4,2] t = {1,2,3,4,5,6,7,8}"
    accept(model(body, weights), [1])


def test_subgraph_that_reads_tokens_is_refused() -> None:
    body = "y = If<then_branch = t () => (float a) { a = Relu(x) }, else_branch = e () => (float b) { b = Abs(x) }>(c)"
    refuse(model(body, "bool c = {1}"), "If", "subgraph reads x")


def test_local_function_is_refused() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18, "f" : 1]> g (float[1,9,8] x) => (float[1,9,8] y) { y = f.act(x) }
              <domain: "f", opset_import: ["" : 18]> act (a) => (b) { b = Relu(a) }"""
    refuse(ir.from_proto(onnx.parser.parse_model(text)), "local function f::act")


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({1: Axis(9, 5, 1)}, "shape inference gives h [1, 4, 8], but the rules derive [1, 5, 8]"),
        ({2: Axis(9, 4, 1)}, "h is declared as [1, 9, 8], but axis 2 has 9 entries"),
    ],
)
def test_a_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch, claim: dict[int, Axis], words: str) -> None:
    monkeypatch.setitem(rest_rules.RULES, "Relu", lambda downstream, node: [claim])
    refuse(model("h = Relu(x) y = ReduceMean(h)"), words)


def test_plan_reads_only() -> None:
    m = model("y = Reshape(x, s)", "int64[2] s = {9,8}")
    before = onnx.printer.to_text(ir.to_proto(m))
    plan = plan_downstream(m, m.graph.inputs[0], 1, OLD, NEW, prefix=1)
    assert len(plan.edits) == 1
    assert onnx.printer.to_text(ir.to_proto(m)) == before


def test_shapes_that_the_file_lacks_are_inferred_first() -> None:
    m = model("h = Relu(x) y = Reshape(h, s)", "int64[2] s = {9,8}")
    m.graph.node(0).outputs[0].shape = None
    accept(m, [4, 8], rewritten=1)
