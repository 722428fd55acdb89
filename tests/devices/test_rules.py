"""Rules by version of TensorRT: which nodes break them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.devices import rules
from tokexport.errors import RequestError


def single(op_type: str, *inputs: ir.Value, domain: str = "", **attributes: object) -> ir.Model:
    node = ir.node(op_type, list(inputs), attributes, domain=domain, name="n")
    return ir.Model(ir.Graph([], node.outputs, nodes=[node], opset_imports={"": 18}), ir_version=10)


def value(dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.val("x", dtype, (1, 5000))


def count(k: int) -> ir.Value:
    return ir.Value(name="k", const_value=ir.tensor(np.array([k])))


def broken(model: ir.Model, runtime: str = "tensorrt", version: str = "10.3") -> list[str]:
    return [violation.op for violation in rules.violations(model, runtime, version)]


@pytest.mark.parametrize("runtime", rules.RUNTIMES)
def test_topk_takes_3840(runtime: str) -> None:
    assert broken(single("TopK", value(), count(3840)), runtime) == []
    assert broken(single("TopK", value(), count(3841)), runtime) == ["TopK"]


def test_topk_with_a_count_from_the_graph_is_not_judged() -> None:
    assert broken(single("TopK", value(), ir.val("k", ir.DataType.INT64, (1,)))) == []


def test_topk_in_a_function_is_found_with_a_count_from_a_constant_node() -> None:
    model = single("Relu", value())
    constant = ir.node("Constant", [], {"value": ir.tensor(np.array([4000]))})
    x = ir.val("x")
    topk = ir.node("TopK", [x, constant.outputs[0]], num_outputs=2, name="rank")
    body = ir.Graph([x], topk.outputs, nodes=[constant, topk], opset_imports={"": 18}, name="f")
    model.functions[("d", "f", "")] = ir.Function("d", "f", graph=body, attributes=())
    (found,) = rules.violations(model, "tensorrt", "10.3")
    assert (found.node, found.op) == ("f/rank", "TopK")
    assert "3840" in found.why
    assert "NvInfer.h" in found.source


def test_reductions_antialias_and_ellipsis_are_judged_by_their_attributes() -> None:
    assert broken(single("ScatterElements", value(), value(), value(), reduction="add")) == ["ScatterElements"]
    assert broken(single("ScatterElements", value(), value(), value(), reduction="none")) == []
    assert broken(single("ScatterElements", value(), value(), value())) == []
    assert broken(single("Resize", value(), antialias=1)) == ["Resize"]
    assert broken(single("Resize", value(), antialias=0)) == []
    assert broken(single("Einsum", value(), equation="...i->...")) == ["Einsum"]
    assert broken(single("Einsum", value(), equation="bi->b")) == []
    assert broken(single("Attention", value(), softmax_precision=1), "tensorrt-rtx", "1.7") == ["Attention"]
    assert broken(single("Attention", value()), "tensorrt-rtx", "1.7") == []


def test_versions_decide() -> None:
    ellipsis = single("Einsum", value(), equation="...i->...")
    assert broken(ellipsis, version="10.11.3") == ["Einsum"]
    assert broken(ellipsis, version="10.12") == []
    assert broken(ellipsis, "tensorrt-rtx", "1.7.1.116") == []
    integers = single("CumSum", value(ir.DataType.INT64))
    assert broken(integers, version="10.7") == ["CumSum"]
    assert broken(integers, version="10.8") == []
    assert broken(single("CumSum", value()), version="10.7") == []
    assert broken(single("NonZero", value()), "tensorrt-rtx", "1.7") == ["NonZero"]
    assert broken(single("NonZero", value())) == []


def test_other_domains_are_not_judged() -> None:
    assert broken(single("Unique", value())) == ["Unique"]
    assert broken(single("Unique", value(), domain="elsewhere")) == []


def test_every_rule_says_why_and_where_it_is_written() -> None:
    for rule in rules.rules():
        assert rule["why"] and rule["source"], rule
        assert set(rule) & set(rules.RUNTIMES), rule
        assert broken(single("Relu", value())) == []


def graph_level(model: ir.Model, version: str) -> list[str]:
    return [one.op for one in rules.violations(model, "tensorrt", version) if not one.node]


@pytest.mark.parametrize(
    ("opset", "version", "refused"), [(17, "8.5", []), (18, "8.5", ["opset 18"]), (18, "10.3", [])]
)
def test_the_opset_is_judged_by_version(opset: int, version: str, refused: list[str]) -> None:
    model = single("Relu", value())
    model.graph.opset_imports[""] = opset
    assert graph_level(model, version) == refused


def test_functions_come_with_9_and_our_plugins_with_10() -> None:
    function = single("Twice", value(), domain="tokexport")
    function.graph.opset_imports[""] = 17
    x = ir.val("x")
    body = ir.Graph([x], [x], nodes=[], opset_imports={"": 17}, name="Twice")
    function.functions[("tokexport", "Twice", "")] = ir.Function("tokexport", "Twice", graph=body, attributes=())
    assert graph_level(function, "8.6") == ["function Twice"] and graph_level(function, "9.0") == []
    plugin = single("Twice", value(), domain="tokexport")
    plugin.graph.opset_imports[""] = 17
    assert graph_level(plugin, "9.3") == ["tokexport.Twice"] and graph_level(plugin, "10.0") == []


def test_bfloat16_comes_with_9() -> None:
    model = single("Relu", value(ir.DataType.BFLOAT16))
    model.graph.inputs.append(ir.val("i", ir.DataType.BFLOAT16, (1,)))
    model.graph.opset_imports[""] = 17
    assert graph_level(model, "8.6") == ["bfloat16"] and graph_level(model, "9.0") == []


def test_rules_of_graphs_say_why_and_where_too() -> None:
    for rule in rules.rules("graph"):
        assert rule["why"] and rule["source"] and "tensorrt" in rule, rule
    assert len(rules.binding("tensorrt", "8.5")) > len(rules.binding("tensorrt", "10.16"))


def test_wrong_requests_are_named() -> None:
    with pytest.raises(RequestError, match=r"'tensort'.*Did you mean tensorrt"):
        rules.violations(single("Relu", value()), "tensort", "10.3")
    with pytest.raises(RequestError, match="'ten' is not a version"):
        rules.violations(single("Relu", value()), "tensorrt", "ten")


@pytest.mark.parametrize("runtime", rules.RUNTIMES)
def test_operators_of_onnx_runtime_are_not_tensorrts(runtime: str) -> None:
    (found,) = rules.violations(single("BiasGelu", value(), domain="com.microsoft"), runtime, "11.0")
    assert (found.node, found.op) == ("n", "com.microsoft.BiasGelu") and "ONNX Runtime's own" in found.why
    assert broken(single("Gelu", value()), runtime) == []


def test_all_operators_of_onnx_runtime_are_named_once() -> None:
    model = single("BiasGelu", value(), domain="com.microsoft")
    for op_type in ("FusedMatMul", "BiasGelu"):
        model.graph.append(ir.node(op_type, [value()], domain="com.microsoft", name=f"later_{op_type}"))
    (found,) = rules.violations(model, "tensorrt", "11.0")
    assert (found.node, found.op) == ("n", "com.microsoft.BiasGelu, FusedMatMul")
