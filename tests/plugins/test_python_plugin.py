"""The plugins in Python: from a node's fields through an engine's to a kernel, on the kernels for the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import toy_tensorrt as trt
from kernel_abi import Library
from kernel_checks import SIX_OF_24, signals_of
from tokexport.errors import GraphError, MissingError, RequestError
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.base import plugin_attributes
from tokexport.graph_passes.forms import plugin_name
from tokexport.plugins import python_plugin
from tokexport.plugins.schema import PLUGINS

torch = pytest.importorskip("torch")

N, D, K = 24, 8, 6
NAMES = [plugin_name(method) for method in PLUGINS]
FIELDS = {int: trt.PluginFieldType.INT32, list: trt.PluginFieldType.INT32, float: trt.PluginFieldType.FLOAT32}
BUILD, RUNTIME = trt.TensorRTPhase.BUILD, trt.TensorRTPhase.RUNTIME


@pytest.fixture
def kernels(library: Library, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The library is the one for the CPU."""
    monkeypatch.setenv("TOKEXPORT_PLUGINS", str(library.path))
    python_plugin._kernels.cache_clear()
    yield library
    python_plugin._kernels.cache_clear()


@pytest.fixture
def no_kernels(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEXPORT_PLUGINS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    python_plugin._kernels.cache_clear()
    yield
    python_plugin._kernels.cache_clear()


def creator(name: str) -> Any:
    python_plugin.register(trt, [name])
    (found,) = [one for one in trt.get_plugin_registry().all_creators if one.name == name]
    return found


def case_of(method: str) -> tuple[Any, Case]:
    return make(method, SIX_OF_24.get(method)), Case(N, D, K)


def fields(attributes: dict[str, Any]) -> list[trt.PluginField]:
    """As TensorRT's parser makes them."""
    made = []
    for name, value in attributes.items():
        value = int(value) if isinstance(value, bool) else value
        kind = FIELDS.get(type(value), trt.PluginFieldType.CHAR)
        if isinstance(value, str):
            data = np.frombuffer(value.encode(), np.int8)
        else:
            data = np.array(value, np.float32 if isinstance(value, float) else np.int32).reshape(-1)
        made.append(trt.PluginField(name, data, kind))
    return made


def plugin(method: str, **changes: Any) -> Any:
    compressor, case = case_of(method)
    attributes = {"keep": K, **plugin_attributes(compressor, case), **changes}
    extra = fields({"plugin_version": "1", "plugin_namespace": "tokexport"})
    return creator(plugin_name(method)).create_plugin("enc/compress", [*fields(attributes), *extra], BUILD)


def descs(*types: trt.DataType) -> list[trt.Desc]:
    shapes = [(2, N, D), *[(2, N)] * 3]
    return [trt.Desc(shape, dtype) for shape, dtype in zip(shapes, types)]


def enqueue(made: Any, tokens: np.ndarray, *signals: np.ndarray) -> list[np.ndarray]:
    batch, _, dim = tokens.shape
    outputs = [
        np.empty((batch, K, dim), tokens.dtype),
        np.empty((batch, K), np.int64),
        np.empty((batch, K), np.float32),
        np.empty((batch, N), np.int64),
    ]
    given = [trt.Desc(array.shape, trt.DataType.FLOAT) for array in (tokens, *signals)]
    scratch = np.empty(made.get_workspace_size(given, []) + 16, np.uint8)
    at = -(-scratch.ctypes.data // 16) * 16
    read = [array.ctypes.data for array in (tokens, *signals)]
    made.enqueue(given, [], read, [array.ctypes.data for array in outputs], at, 0)
    return outputs


@pytest.mark.parametrize("method", PLUGINS)
def test_a_plugin_from_an_engine_computes_what_the_reference_does(kernels: Library, method: str) -> None:
    built = plugin(method)
    stored = built.clone().get_fields_to_serialize()
    made = creator(plugin_name(method)).create_plugin("", stored, RUNTIME).attach_to_context(None)
    assert made.attributes == built.attributes and made.attributes["sized"] == 1
    tokens = np.random.default_rng(0).integers(-2, 3, (2, N, D)).astype(np.float32)
    compressor, case = case_of(method)
    signals = signals_of(compressor, torch.from_numpy(tokens))
    got = enqueue(made, tokens, *(signal.numpy() for signal in signals.values()))
    expected = compressor.reference(case, torch.from_numpy(tokens), **signals)
    assert got[0].shape == (2, K, D)
    np.testing.assert_allclose(got[0], expected.tokens.numpy(), atol=1e-5)
    for array, name in zip(got[1:], ("kept_indices", "sizes", "assignment")):
        np.testing.assert_array_equal(array, getattr(expected, name).numpy())


def test_a_signal_is_read(kernels: Library) -> None:
    scores = np.random.default_rng(0).random((2, N), np.float32)
    got = enqueue(plugin("topk", score="cls_attention"), np.ones((2, N, D), np.float32), scores)
    np.testing.assert_array_equal(got[1], np.sort(np.argsort(-scores, 1)[:, :K], 1))


@pytest.mark.parametrize("tokens", [trt.DataType.FLOAT, trt.DataType.HALF, trt.DataType.BF16])
def test_types_and_shapes(no_kernels: None, tokens: trt.DataType) -> None:
    made, (i64, f32) = plugin("divprune"), (trt.DataType.INT64, trt.DataType.FLOAT)
    assert made.get_output_data_types([tokens]) == [tokens, i64, f32, i64]
    shapes = made.get_output_shapes([[trt.Dim(2), trt.Dim(N), trt.Dim(D)]], [], trt.Expressions())
    assert [[dim.value for dim in shape] for shape in shapes] == [[2, K, D], [2, K], [2, K], [2, N]]
    types = [tokens, tokens, i64, f32, i64]
    for position in range(5):
        tensors = [trt.Desc((2, N), dtype) for dtype in types]
        assert made.supports_format_combination(position, tensors, 1)
        tensors[position].format = trt.TensorFormat.CHW4
        assert not made.supports_format_combination(position, tensors, 1)
        tensors[position] = trt.Desc((2, N), trt.DataType.INT8)
        assert not made.supports_format_combination(position, tensors, 1)
    scored = [trt.Desc((2, N), dtype) for dtype in (tokens, trt.DataType.HALF, tokens, i64, f32, i64)]
    assert all(plugin("topk", score="cls_attention").supports_format_combination(i, scored, 2) for i in range(6))


@pytest.mark.parametrize(
    ("changes", "dims", "dtype", "message"),
    [
        ({}, (2, N, D), trt.DataType.INT8, "tokens are DataType.INT8"),
        ({}, (70000, N, D), trt.DataType.FLOAT, "batch is 70000. The kernels take 1 to 65535"),
        ({}, (2, 40000, D), trt.DataType.FLOAT, "N is 40000. The kernels take 1 to 32768"),
        ({"keep": 25}, (2, N, D), trt.DataType.FLOAT, "keep is 25. The kernels take 1 to 24"),
        ({"start": "last"}, (2, N, D), trt.DataType.FLOAT, "start is 'last'"),
    ],
)
def test_what_is_refused_names_the_node(
    no_kernels: None, changes: dict, dims: tuple, dtype: trt.DataType, message: str
) -> None:
    made = plugin("kcenter_merge", **changes)
    for refuses in (made.configure_plugin, made.get_workspace_size, made.on_shape_change):
        with pytest.raises(GraphError, match=f"TokexportKcenterMerge 'enc/compress': .*{message}"):
            refuses([trt.Desc(dims, dtype)], [])


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(GraphError, match="TokexportApet 'n': it has no attribute 'basis'"):
        creator("TokexportApet").create_plugin("n", fields({"keep": 6}), BUILD)


def test_an_engine_that_was_built_without_kernels_is_refused(
    no_kernels: None, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tokens = plugin("kcenter_merge"), np.ones((2, N, D), np.float32)
    assert made.get_workspace_size(descs(trt.DataType.FLOAT), []) == 0
    with pytest.raises(MissingError, match=r"no kernels here .*tokexport plugins build --kernels-only"):
        enqueue(made, tokens)
    monkeypatch.setenv("TOKEXPORT_PLUGINS", str(library.path))
    python_plugin._kernels.cache_clear()
    again = creator("TokexportKcenterMerge").create_plugin("n", made.get_fields_to_serialize(), RUNTIME)
    with pytest.raises(MissingError, match="no kernels where this engine was built"):
        enqueue(again, tokens)


def test_registering_twice_and_what_has_no_kernel() -> None:
    python_plugin.register(trt, NAMES)
    python_plugin.register(trt, NAMES)
    assert sorted(one.name for one in trt.get_plugin_registry().all_creators) == sorted(NAMES)
    with pytest.raises(RequestError, match=r"no kernel for plugin 'TokexportApex'\. Did you mean TokexportApet"):
        python_plugin.register(trt, ["TokexportApex"])
