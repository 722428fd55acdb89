"""TensorRT-RTX without a GPU: what it refuses is named, and nothing it does can take us down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokexport import compress
from tokexport.errors import GraphError, MissingError, RequestError
from tokexport.runtimes.tensorrt import child, rtx
from tokexport.runtimes.tensorrt.wheel import environment

pytest.importorskip("tensorrt_rtx")


def write(path: Path, op_type: str, *inputs: object, n: int = 1, **attributes: object) -> Path:
    """A MatMul with a weight in external data, and one node behind it."""
    x = ir.val("x", ir.DataType.FLOAT, (1, 4000, 8))
    w = ir.Value(name="w", const_value=ir.tensor(np.eye(8, dtype=np.float32)), shape=ir.Shape((8, 8)),
                 type=ir.TensorType(ir.DataType.FLOAT))  # fmt: skip
    constants = [ir.Value(name=f"c{i}", const_value=ir.tensor(np.asarray(c))) for i, c in enumerate(inputs)]
    project = ir.node("MatMul", [x, w], name="project")
    node = ir.node(op_type, [*project.outputs, *constants], attributes, num_outputs=n, name="suspect")
    project.outputs[0].name = "projected"
    for i, value in enumerate(node.outputs):
        value.name = f"y{i}"
    node.outputs[0].type = x.type
    graph = ir.Graph([x], node.outputs[:1], nodes=[project, node], initializers=[w, *constants],
                     opset_imports={"": 18}, name="g")  # fmt: skip
    ir.save(ir.Model(graph, ir_version=10), path, external_data="w.data", size_threshold_bytes=100)
    assert (path.parent / "w.data").stat().st_size >= 256
    return path


def test_supported_graph_with_external_data_parses_and_builds(tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx", "TopK", [3840], n=2, axis=1)
    assert rtx.parse(model) == []
    engine = tmp_path / "m.engine"
    built = rtx.build(model, sm="89", engine=engine)
    assert built.ok and not built.errors
    assert built.bytes == engine.stat().st_size > 1000
    assert 0 < built.seconds < 60


def test_parser_errors_name_node_operator_and_reason(tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx", "NonZero")
    (error,) = rtx.parse(model)
    assert (error.node, error.op) == ("suspect", "NonZero")
    assert "plugin registry" in error.reason
    assert str(error).startswith("NonZero 'suspect': ")
    assert error in rtx.build(model).errors


def test_failed_build_names_the_rule_and_the_node(tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx", "TopK", [3841], n=2, axis=1)
    assert rtx.parse(model) == []
    built = rtx.build(model, engine=tmp_path / "none")
    assert not built.ok and built.bytes == 0
    assert any((e.node, e.op) == ("suspect", "TopK") and "3840" in e.reason for e in built.errors)
    assert not (tmp_path / "none").exists()


def test_serialized_models_and_what_is_no_model(tmp_path: Path) -> None:
    x = ir.val("x", ir.DataType.FLOAT, (1, 4))
    relu = ir.node("Relu", [x], name="relu")
    relu.outputs[0].name, relu.outputs[0].type = "y", x.type
    model = ir.Model(ir.Graph([x], relu.outputs, nodes=[relu], opset_imports={"": 18}, name="g"), ir_version=10)
    assert rtx.parse(ir.to_proto(model).SerializeToString()) == []
    assert rtx.parse(b"not a model") != []
    assert not rtx.build(b"not a model").ok


@pytest.mark.parametrize("script", ["import os; os.abort()", "import os; os.kill(os.getpid(), 9)"])
def test_a_child_that_dies_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    model = write(tmp_path / "m.onnx", "Relu")
    words = f"import sys; print('last words', file=sys.stderr, flush=True); {script}"
    monkeypatch.setattr(child, "command", lambda: [sys.executable, "-c", words])
    (error,) = rtx.parse(model)
    assert "ended with -" in error.reason and "last words" in error.reason


def test_a_child_that_hangs_is_a_result(tmp_path: Path) -> None:
    (error,) = rtx.parse(write(tmp_path / "m.onnx", "Relu"), timeout=0.001)
    assert "stopped after 0.001 seconds" in error.reason


def test_environment_has_the_name_that_the_wheel_lacks(tmp_path: Path) -> None:
    """The plugin registry opens it, and ends the process where it is not found."""
    opens = [sys.executable, "-c", "import tensorrt_rtx, ctypes; ctypes.CDLL('libtensorrt_rtx.so')"]
    assert subprocess.run(opens, env=environment(tmp_path), capture_output=True, check=False).returncode == 0
    assert (tmp_path / "libtensorrt_rtx.so").resolve().name.startswith("libtensorrt_rtx.so.")


def test_wrong_requests_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraphError, match=r"no file .*missing\.onnx"):
        rtx.parse(tmp_path / "missing.onnx")
    with pytest.raises(RequestError, match=r"'87'.*75, 86, 89, 120"):
        rtx.build(tmp_path / "missing.onnx", sm="87")
    monkeypatch.setattr(rtx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="pip install 'tensorrt-rtx"):
        rtx.parse(tmp_path / "missing.onnx")


def plugin_graph(dtype: int = onnx.TensorProto.FLOAT, **attributes: object) -> bytes:
    """x [1, 36, 8] -> apet in plugin form; of another type, and with other attributes, where they are given."""
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1,36,8] x) => (float[1,36,8] t) { t = Relu(x) }'
    model = compress(onnx.parser.parse_model(text), "apet", keep=9, seam="tensor:t", params={"basis": 3}, form="plugin")
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        if value.name != "sizes" and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = dtype
    (node,) = [node for node in model.graph.node if node.domain == "tokexport"]
    for name, value in attributes.items():
        (attribute,) = [one for one in node.attribute if one.name == name]
        attribute.CopyFrom(onnx.helper.make_attribute(name, value))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": onnx.TensorProto.INT8}, "tokens are DataType.INT8. The kernels take float32, float16 and bfloat16."),
        ({"keep": 37}, "keep is 37. The kernels take 1 to 36."),
        ({"start": "last"}, "attribute start is 'last'. Known values: farthest_from_mean, first, max_norm."),
    ],
)
def test_what_a_plugin_refuses_fails_the_build_in_its_own_words(change: Any, reason: str) -> None:
    built = rtx.build(plugin_graph(**change), plugins="python")
    assert not built.ok and built.bytes == 0
    assert built.errors[0] == rtx.ParserError("t.apet", "TokexportApet", reason)


def test_a_plugin_without_a_kernel_and_a_library_without_plugins(tmp_path: Path) -> None:
    unknown = plugin_graph().replace(b"TokexportApet", b"TokexportApex")
    (error,) = rtx.parse(unknown, plugins="python")
    assert "no kernel for plugin 'TokexportApex'. Did you mean TokexportApet" in error.reason
    with pytest.raises(MissingError, match=r"no plugin library .*none\.so.*tokexport plugins build"):
        rtx.build(plugin_graph(), plugins=tmp_path / "none.so")
    (tmp_path / "empty.so").write_bytes(b"")
    built = rtx.build(plugin_graph(), plugins=tmp_path / "empty.so")
    assert not built.ok and "finds no TokexportApet in the plugin library" in built.errors[-1].reason
