"""`rtx.build` with the C++ plugins: an encoder is built, and what they refuse is told in their words."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from library_build import build_library, need_headers
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.ir_tools.model_io import save_model
from tokexport.plugins import library
from tokexport.runtimes.tensorrt import rtx


@pytest.fixture(scope="module")
def built_library() -> Path:
    pytest.importorskip("tensorrt_rtx", reason="plugin library in TensorRT-RTX: it is not installed")
    return build_library(need_headers())


def test_an_encoder_is_built(built_library: Path, tiny_vlm_encoder_onnx: Path, tmp_path: Path) -> None:
    model = compress(tiny_vlm_encoder_onnx, "apet", keep=21, form="plugin")
    assert {*library.needed(model)} <= {*library.creators(built_library)}
    save_model(model, tmp_path / "m.onnx", "m.data")
    assert rtx.build(tmp_path / "m.onnx", plugins=built_library).bytes > 0


def test_what_it_refuses_is_told(built_library: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1,36,8] x) => (float[1,36,8] t) { t = Relu(x) }'
    model = compress(onnx.parser.parse_model(text), "apet", keep=9, seam="tensor:t", params={"basis": 3}, form="plugin")
    (node,) = [node for node in model.graph.node if node.domain == "tokexport"]
    (basis,) = [one for one in node.attribute if one.name == "basis"]
    basis.i = 0
    built = rtx.build(model.SerializeToString(), plugins=built_library)
    assert not built.ok
    assert (built.errors[0].node, built.errors[0].op) == ("t.apet", "TokexportApet")
    assert built.errors[0].reason == "attribute 'basis' is 0; allowed: an integer, 1 to 64"
