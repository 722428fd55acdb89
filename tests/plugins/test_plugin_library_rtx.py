"""The plugin library in a real TensorRT: TensorRT-RTX parses and builds plugin graphs without a GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from kernel_build import TESTS
from kernel_checks import SIX_OF_24
from library_build import build_library, need_headers
from onnx import TensorProto, helper
from tokexport import compress
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.base import plugin_attributes
from tokexport.graph_passes.forms import plugin_name
from tokexport.plugins.schema import PLUGINS
from tokexport.runtimes.tensorrt.wheel import environment


def graph(dtype: int, batch: int | str) -> onnx.ModelProto:
    """x [B, 24, 16] -> h = 2 x, where the compressor goes."""
    ends = [helper.make_tensor_value_info(name, dtype, [batch, 24, 16]) for name in ("x", "h")]
    made = helper.make_graph([helper.make_node("Add", ["x", "x"], ["h"])], "g", ends[:1], ends[1:])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def plugin_form(method: str, dtype: int = TensorProto.FLOAT, batch: int | str = 2) -> onnx.ModelProto:
    params = SIX_OF_24.get(method)
    if not make(method, params).signals():
        return compress(graph(dtype, batch), method, keep=6, seam="tensor:h", params=params, form="plugin")
    return with_signals(method, dtype, batch)


def with_signals(method: str, dtype: int, batch: int | str) -> onnx.ModelProto:
    """The node of `plugin_form` in a graph that hands it what it reads beside the tokens."""
    compressor = make(method, SIX_OF_24.get(method))
    model = compress(graph(dtype, batch), "divprune", keep=6, seam="tensor:h", form="plugin")
    (node,) = [node for node in model.graph.node if node.domain == "tokexport"]
    node.op_type = plugin_name(method)
    given = plugin_attributes(compressor, Case(24, 16, 6)).items()
    node.attribute.extend(helper.make_attribute(name, value) for name, value in given if value is not None)
    for name in compressor.signals():
        kind = dtype if name == "keys" else TensorProto.FLOAT
        shape = {"keys": [batch, 24, 4], "text": [batch, 5, 16]}.get(name, [batch, 24])
        model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        node.input.append(name)
    return model


def broken(change: dict) -> onnx.ModelProto:
    model = plugin_form("apet")
    node = next(node for node in model.graph.node if node.domain == "tokexport")
    for attribute in node.attribute:
        if attribute.name in change:
            attribute.CopyFrom(helper.make_attribute(attribute.name, change[attribute.name]))
    return model


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """(graphs by name, how to load the library) -> what the child process says of each."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("plugin library in TensorRT-RTX: it is not installed")
    library = build_library(need_headers())

    def in_child(graphs: dict[str, onnx.ModelProto], how: str = "load_library") -> dict[str, dict]:
        folder: Path = tmp_path_factory.mktemp("graphs")
        for name, model in graphs.items():
            onnx.save(model, folder / f"{name}.onnx")
        command = [sys.executable, str(TESTS / "rtx_child.py"), str(library), how, str(folder)]
        links = tmp_path_factory.mktemp("links")
        done = subprocess.run(command, env=environment(links), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return {line["file"]: line for line in lines}

    return in_child


def test_every_method_is_built(build):
    graphs = {
        f"{method}-{kind}-{batch}": plugin_form(method, dtype, batch)
        for method in PLUGINS
        for kind, dtype, batch in (
            ("float32", TensorProto.FLOAT, 2),
            ("float16", TensorProto.FLOAT16, "B"),
            ("bfloat16", TensorProto.BFLOAT16, 1),
        )
    }
    results = build(graphs)
    assert sorted(results) == sorted(graphs)
    for name, result in results.items():
        batch = name.split("-")[2]
        assert result["parsed"] and result["bytes"] > 0 and result["stored"], result
        assert result["log"] == [], result
        b = -1 if batch == "B" else int(batch)
        assert result["shapes"]["h"] == [b, 6, 16]
        assert result["shapes"]["assignment"] == [b, 24]


@pytest.fixture
def tables_of_tensorrt_11():
    """What the library calls in TensorRT itself, beside its plugins: TensorRT-RTX has it as TensorRT 11 does."""
    if "TRT_MAJOR_ENTERPRISE 11" not in (need_headers() / "NvInferVersion.h").read_text():
        pytest.skip("plugin library in TensorRT-RTX, logger and registry: they take headers of TensorRT 11")


def test_what_is_refused_is_in_the_log_of_tensorrt(build, tables_of_tensorrt_11):
    results = build({"slots": broken({"basis_slots": "overwrit"}), "keep": broken({"keep": 3})})
    assert not any(result["parsed"] for result in results.values())
    slots, keep = ("\n".join(results[name]["log"]) for name in ("slots", "keep"))
    assert "attribute 'basis_slots' is 'overwrit'; allowed: overwrite, blend, none" in slots
    assert "tokens [2, 24, 16] with keep 3: keep is not a number that this method can keep of these tokens" in keep
    assert slots.startswith("TokexportApet '") and keep.startswith("TokexportApet '")


def test_a_library_that_is_only_opened_registers_itself(build, tables_of_tensorrt_11):
    assert build({"apet": plugin_form("apet")}, "dlopen")["apet"]["bytes"] > 0


def test_an_encoder_with_its_plugin(build, tiny_vlm_encoder_onnx):
    model = compress(tiny_vlm_encoder_onnx, "topk", ratio="0.85", form="plugin")
    proto = ir.to_proto(model)
    result = build({"encoder": proto})["encoder"]
    assert result["bytes"] > 0 and result["stored"] and result["log"] == []
