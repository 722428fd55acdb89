"""Portable, plugin, inlined: the same numbers, new models, weights shared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes import compressors, forms
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.compressors import base
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.ir_tools.builder import Builder
from tokexport.graph_passes.seams.find import resolve

N, D = 12, 8
Body = Callable[[Builder, ir.Value, int], dict[str, ir.Value]]


@dataclass(frozen=True)
class BigNorm:
    """Parameters of every kind, some of which no attribute can hold."""

    basis: int = 10
    ridge: float = 0.5
    merge: bool = True
    start: str = "first"
    off: str | None = None
    window: tuple[int, ...] = (2, 2)
    table: dict[str, int] | None = None

    def signals(self) -> tuple[str, ...]:
        return ()

    def check(self, case: base.Case) -> None:
        if case.keep == 7:
            raise RequestError("7 is not reached")


@pytest.fixture(autouse=True)
def big_norm() -> Iterator[None]:
    """The method of the toy, known while a test runs."""
    card = {"family": "baseline", "modalities": ("image",), "merges": False, "source": "test", "summary": "test"}
    base.compressor("big_norm", plugin=True, **card)(BigNorm)
    yield
    del base.DEFINED["big_norm"]


def keep_largest(b: Builder, tokens: ir.Value, keep: int) -> dict[str, ir.Value]:
    """The K tokens of largest norm, by position."""
    norm = b.op("ReduceSum", b.op("Mul", tokens, tokens), [2], keepdims=0)
    _, index = b.ops("TopK", norm, [keep], n=2)
    rank, _ = b.ops("TopK", index, [keep], n=2, largest=0)
    expanded = b.op("Expand", b.op("Unsqueeze", rank, [2]), [1, keep, D])
    return {"tokens": b.op("GatherElements", tokens, expanded, axis=1), "kept_indices": rank}


def toy(*keeps: int, opset: int = 18, body: Body = keep_largest) -> ir.Model:
    """x [1, 12, 8] @ w -> a compressor for each K, one behind the other."""
    x = ir.val("x", ir.DataType.FLOAT, (1, N, D))
    w = ir.val("w", ir.DataType.FLOAT, (D, D))
    w.const_value = ir.tensor(np.random.default_rng(0).standard_normal((D, D), dtype=np.float32), name="w")
    project = ir.node("MatMul", [x, w], name="project")
    value = project.outputs[0]
    value.name, value.type, value.shape = "projected", x.type, ir.Shape((1, N, D))
    nodes, functions, outputs = [project], [], []
    for i, keep in enumerate(keeps):
        b, formal = Builder(), ir.val("t")
        name = f"TokexportBigNorm_{keep:08x}"
        functions.append(b.function("tokexport", name, [formal], body(b, formal, keep)))
        node = ir.node(name, [value], domain="tokexport", num_outputs=2, name=f"compress_{i}")
        params = base.parameters(BigNorm())
        node.metadata_props.update(
            {
                "tokexport.method": "big_norm",
                "tokexport.keep": str(keep),
                "tokexport.params": json.dumps(params),
            }
        )
        tokens, kept = node.outputs
        tokens.name, tokens.type, tokens.shape = f"tokens_{i}", x.type, ir.Shape((1, keep, D))
        kept.name, kept.type, kept.shape = f"kept_{i}", ir.TensorType(ir.DataType.INT64), ir.Shape((1, keep))
        nodes.append(node)
        outputs += [tokens, kept]
        value = tokens
    imports = {"": opset, "tokexport": 1}
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=[w], opset_imports=imports, name="toy")
    return ir.Model(graph, ir_version=10, functions=functions)


def run(model: ir.Model) -> list[np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((1, N, D), dtype=np.float32)
    return session.run(None, {"x": x})


def names(model: ir.Model) -> list[str]:
    return [o.name or "" for node in ir.traversal.RecursiveGraphIterator(model.graph) for o in node.outputs]


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_inlined_computes_the_same_with_two_counts_in_one_graph(opset: int) -> None:
    model = toy(6, 3, opset=opset)
    inlined = forms.to_inlined(model)
    for one, other in zip(run(model), run(inlined)):
        np.testing.assert_array_equal(one, other)
    assert not inlined.functions
    assert dict(inlined.graph.opset_imports) == {"": opset}
    assert {node.domain for node in inlined.graph} == {""}
    onnx.checker.check_model(ir.to_proto(inlined), full_check=True)


def test_inlined_names_are_unique_and_say_where_they_come_from() -> None:
    model = toy(6, 3)
    call = list(model.graph)[2]
    call.op_type = list(model.graph)[1].op_type  # two calls of one function: the bodies must not collide
    inlined = forms.to_inlined(model)
    values, nodes = names(inlined), [node.name for node in inlined.graph]
    assert len(set(values)) == len(values)
    assert len(set(nodes)) == len(nodes)
    inner = [node for node in inlined.graph if node.name != "project"]
    assert all(node.name is not None and node.name.startswith("TokexportBigNorm_00000006/") for node in inner)
    assert [o.name for o in inlined.graph.outputs] == ["tokens_0", "kept_0", "tokens_1", "kept_1"]
    assert all(node.metadata_props["tokexport.method"] == "big_norm" for node in inner)


def test_inlining_refuses_an_operator_that_changed_its_meaning() -> None:
    def group_norm(b: Builder, tokens: ir.Value, keep: int) -> dict[str, ir.Value]:
        one, zero = np.ones(2, np.float32), np.zeros(2, np.float32)
        channels = b.op("Transpose", tokens, perm=[0, 2, 1])
        normal = b.op("GroupNormalization", channels, one, zero, num_groups=2)
        cut = b.op("Slice", b.op("Transpose", normal, perm=[0, 2, 1]), [0], [keep], [1])
        return {"tokens": cut, "kept_indices": b.op("Constant", value=ir.tensor(np.arange(keep)[None]))}

    run(forms.to_inlined(toy(6, opset=20, body=group_norm)))
    with pytest.raises(GraphError, match=r"GroupNormalization differs.*TokexportBigNorm_00000006"):
        forms.to_inlined(toy(6, opset=21, body=group_norm))


def test_plugin_nodes_carry_everything_the_plugin_needs() -> None:
    plugin = forms.to_plugin(toy(6, 3))
    first, second = [node for node in plugin.graph if node.domain == "tokexport"]
    assert first.op_type == second.op_type == "TokexportBigNorm"
    assert {name: attribute.value for name, attribute in first.attributes.items()} == {
        "keep": 6,
        "basis": 10,
        "ridge": 0.5,
        "merge": 1,
        "start": "first",
        "window": (2, 2),
        "plugin_version": "1",
        "plugin_namespace": "tokexport",
    }
    assert second.attributes["keep"].as_int() == 3
    assert first.attributes["merge"].type == ir.AttributeType.INT
    assert first.attributes["ridge"].type == ir.AttributeType.FLOAT
    assert not plugin.functions
    onnx.checker.check_model(ir.to_proto(plugin))


def test_plugin_outputs_keep_types_and_shapes_on_disk() -> None:
    proto = ir.to_proto(forms.to_plugin(toy(6, 3)))
    loaded = ir.from_proto(onnx.load_from_string(proto.SerializeToString()))
    shapes = {o.name: (o.dtype, o.shape) for node in loaded.graph for o in node.outputs if node.domain}
    assert shapes["tokens_0"] == (ir.DataType.FLOAT, ir.Shape((1, 6, D)))
    assert shapes["kept_1"] == (ir.DataType.INT64, ir.Shape((1, 3)))


@pytest.mark.parametrize("convert", [forms.to_plugin, forms.to_inlined])
def test_weights_are_shared_never_read_and_the_input_is_untouched(
    convert: Callable[[ir.Model], ir.Model],
) -> None:
    def refuse() -> ir.Tensor:
        raise AssertionError("a weight was read")

    model = toy(6, 3)
    lazy = ir.LazyTensor(refuse, dtype=ir.DataType.FLOAT, shape=ir.Shape((D, D)), name="w")
    model.graph.initializers["w"].const_value = lazy
    before = [(node.op_type, node.name, dict(node.attributes), tuple(node.outputs)) for node in model.graph]
    bodies = {key: [node.name for node in function] for key, function in model.functions.items()}
    imports = dict(model.graph.opset_imports)
    result = convert(model)
    assert result.graph.initializers["w"].const_value is lazy
    assert result.graph is not model.graph
    assert [(node.op_type, node.name, dict(node.attributes), tuple(node.outputs)) for node in model.graph] == before
    assert {key: [node.name for node in function] for key, function in model.functions.items()} == bodies
    assert dict(model.graph.opset_imports) == imports


def test_plugin_needs_a_compressor() -> None:
    with pytest.raises(GraphError, match=r"no compressor in portable form.*'toy'"):
        forms.to_plugin(toy())


def test_plugin_form_cannot_be_inlined() -> None:
    with pytest.raises(GraphError, match=r"TokexportBigNorm has no body.*compress_0"):
        forms.to_inlined(forms.to_plugin(toy(6)))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokexport.keep", "six", "metadata cannot be read"),
        ("tokexport.keep", "7", "7 is not reached"),
        ("tokexport.grid", "12", "metadata cannot be read"),
        ("tokexport.method", "bigger_norm", "unknown method 'bigger_norm'"),
        ("tokexport.params", "[1]", "not a mapping"),
        ("tokexport.params", '{"keep": 4}', "no parameter 'keep'"),
        ("tokexport.params", '{"basis": 2147483648}', "reads 32 bits"),
        ("tokexport.params", '{"table": {"a": 1}}', "'table'"),
        ("tokexport.params", '{"window": []}', "'window'"),
    ],
)
def test_plugin_refuses_damaged_metadata(key: str, value: str, message: str) -> None:
    model = toy(6)
    list(model.graph)[1].metadata_props[key] = value
    with pytest.raises(GraphError, match=rf"compress_0.*{message}"):
        forms.to_plugin(model)


def test_plugin_refuses_a_parameter_of_a_name_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Taken(BigNorm):
        plugin_version: int = 2

    monkeypatch.setitem(base.DEFINED, "big_norm", Taken)
    with pytest.raises(GraphError, match=r"compress_0.*'plugin_version', a name that every plugin already uses"):
        forms.to_plugin(toy(6))


def test_plugin_refuses_tokens_without_a_shape() -> None:
    model = toy(6)
    next(iter(model.graph)).outputs[0].shape = None
    with pytest.raises(GraphError, match=r"compress_0.*tokens it reads have no type and shape"):
        forms.to_plugin(model)
    next(iter(model.graph)).outputs[0].shape = ir.Shape((1, "N", D))
    with pytest.raises(GraphError, match=r"compress_0.*tokens it reads have no fixed shape"):
        forms.to_plugin(model)


def of_tokens(method: str, keep: int, params: dict[str, Any], form: str = "portable") -> ir.Model:
    """A compressor behind t = Relu(x), x [B, 24, 8]."""
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[B,24,8] x) => (float[B,24,8] t) { t = Relu(x) }'
    model = ir.from_proto(onnx.parser.parse_model(text))
    return compress(model, method, keep=keep, seam="tensor:t", params=params, form=form)


@pytest.mark.parametrize("given", ["by the parameter", "by the seam"])
def test_plugin_is_told_the_grid(given: str) -> None:
    if given == "by the parameter":
        model = of_tokens("evs", 7, {"grid": "4x3x2"})
    else:
        text = '<ir_version: 8, opset_import: ["" : 18]> g (float[B,24,8] x) => (float[B,24,8] t) { t = Relu(x) }'
        model = ir.from_proto(onnx.parser.parse_model(text))
        insert(model, replace(resolve(model, "tensor:t"), grid=(4, 3, 2)), compressors.make("evs"), 7)
    (node,) = [node for node in forms.to_plugin(model).graph if node.domain == "tokexport"]
    assert {name: attribute.value for name, attribute in node.attributes.items()} == {
        "keep": 7, "grid": (4, 3, 2), "plugin_version": "1", "plugin_namespace": "tokexport"
    }  # fmt: skip
    assert node.attributes["grid"].type == ir.AttributeType.INTS


FIXED: list[tuple[str, dict[str, Any], int]] = [
    ("pixel_unshuffle", {"grid": "6x4"}, 6),
    ("pixel_unshuffle", {"grid": "6x4", "version": "v1"}, 6),
    *(("pool", {"grid": "6x4", "mode": mode}, 6) for mode in ("average", "max", "bilinear")),
    ("pool", {"grid": "24"}, 4),
    ("pool1d", {}, 6),
    ("pool3d", {"grid": "4x3x2", "shape": "2x1x2"}, 4),
    ("random", {"seed": 7}, 6),
    ("slowfast", {"grid": "4x3x2", "slow": 2, "fast": 1}, 10),
    ("st_mean", {"grid": "4x3x2"}, 10),
    ("stack", {"k": 4}, 6),
    ("temporal_pool", {"grid": "4x3x2"}, 12),
    ("uniform", {}, 6),
]


def test_every_fixed_method_is_tried_here() -> None:
    assert {method for method, _, _ in FIXED} == {card.name for card in compressors.methods() if card.fixed}


@pytest.mark.parametrize(("method", "params", "keep"), FIXED)
def test_a_fixed_method_is_inlined_in_the_plugin_form(method: str, params: dict[str, Any], keep: int) -> None:
    portable = of_tokens(method, keep, params)
    plugin = forms.to_plugin(portable)
    assert {node.domain for node in plugin.graph} == {""} and not plugin.functions
    assert dict(plugin.graph.opset_imports) == {"": 18}
    assert {node.metadata_props.get("tokexport.method") for node in plugin.graph} == {None, method}
    onnx.checker.check_model(ir.to_proto(plugin), full_check=True)
    x = np.random.default_rng(1).standard_normal((2, 24, 8), dtype=np.float32)
    names = [output.name or "" for output in plugin.graph.outputs]
    assert names == [output.name for output in portable.graph.outputs]
    sessions = [onnxruntime.InferenceSession(ir.to_proto(m).SerializeToString()) for m in (portable, plugin)]
    for name, *both in zip(names, *(session.run(None, {"x": x}) for session in sessions)):
        np.testing.assert_array_equal(*both, err_msg=name)
    # And what makes it fixed: other tokens go into the same slots.
    other = dict(zip(names, sessions[1].run(None, {"x": -2 * x})))
    for name, value in zip(names, sessions[1].run(None, {"x": x})):
        if value.dtype == np.int64:
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_a_fixed_method_in_front_of_a_plugin_is_inlined_and_the_plugin_stays() -> None:
    model = of_tokens("pool", 6, {"grid": "6x4"})
    again = {name: f"{name}_2" for name in ("kept_indices", "sizes", "assignment")}
    norm = {"score": "norm"}
    both = compress(model, "topk", keep=3, seam="tensor:t", params=norm, outputs=again, drop_outputs=tuple(again))
    plugin = forms.to_plugin(both)
    (node,) = [node for node in plugin.graph if node.domain]
    assert (node.op_type, node.attributes["keep"].as_int()) == ("TokexportTopk", 3) and not plugin.functions
    assert any(one.metadata_props.get("tokexport.method") == "pool" for one in plugin.graph)
    assert not any(one.metadata_props.get("tokexport.method") == "topk" for one in plugin.graph if not one.domain)
    assert forms.without_plugin(both) == []


def test_plugin_form_of_a_method_without_a_plugin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy(6, 3)
    assert forms.without_plugin(model) == []
    card = replace(BigNorm.method, plugin=False)  # type: ignore[attr-defined]
    monkeypatch.setattr(BigNorm, "method", card)
    assert forms.without_plugin(model) == ["big_norm"]
    refusal = r"method 'big_norm' has no TensorRT plugin.*portable or the inlined form"
    with pytest.raises(RequestError, match=refusal):
        forms.to_plugin(model)
    with pytest.raises(RequestError, match=refusal):
        compress("not_opened.onnx", "big_norm", form="plugin")


def test_a_plugin_reads_no_keys_in_float32_beside_tokens_in_half_precision() -> None:
    tokens, keys = (ir.val(name, ir.DataType.FLOAT16, (1, 8, 4)) for name in ("t", "k"))
    node = ir.node("TokexportTome_00000000", [tokens, keys], domain="tokexport")
    node.metadata_props.update({"tokexport.method": "tome", "tokexport.params": "{}"})
    model = ir.Model(ir.Graph([tokens, keys], node.outputs, nodes=[node], opset_imports={"": 18}), ir_version=10)
    assert forms.without_plugin(model) == []
    keys.dtype = ir.DataType.FLOAT
    assert forms.without_plugin(model) == ["tome"]
    with pytest.raises(RequestError, match="'tome' has no TensorRT plugin for float32 keys beside tokens in half"):
        forms.to_plugin(model)


def test_plugin_refuses_an_output_without_a_shape() -> None:
    model = toy(6)
    list(model.graph)[1].outputs[1].shape = None
    with pytest.raises(GraphError, match="'kept_0' has no type and shape"):
        forms.to_plugin(model)


def test_plugin_refuses_a_name_without_its_hash() -> None:
    model = toy(6)
    list(model.graph)[1].op_type = "TokexportBigNorm"
    with pytest.raises(GraphError, match="8 hex digits"):
        forms.to_plugin(model)
