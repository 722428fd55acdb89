"""Real encoders, compressed: TensorRT builds what we merge, and refuses the plugin form only for want of the plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokexport.graph_passes import forms, precision, ranges
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.model_io import load_model, save_model
from tokexport.runtimes import rtx

pytest.importorskip("tensorrt_rtx")

ENCODERS = ("tiny_vlm_encoder_onnx", "tiny_llava_encoder_onnx", "tiny_whisper_encoder_onnx")
METHODS = ("apet", "kcenter_merge")
KEEP = 12


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Path:
    """An exported encoder with its weights in external data."""
    return request.getfixturevalue(request.param)


def saved(model: ir.Model, folder: Path) -> Path:
    save_model(model, folder / "model.onnx", "model.onnx.data")
    return folder / "model.onnx"


def assert_builds(path: Path) -> None:
    built = rtx.build(path)
    assert built.ok, "\n".join(map(str, built.errors))
    assert built.bytes > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["portable", "inlined"])
def test_forms_without_a_plugin_build(encoder: Path, method: str, form: Any, tmp_path: Path) -> None:
    assert_builds(saved(compress(encoder, method, keep=KEEP, form=form), tmp_path))


@pytest.mark.parametrize("method", ["random", "topk", "uniform"])
@pytest.mark.parametrize("form", ["portable", "inlined"])
def test_the_other_bodies_are_parsed(tiny_llava_encoder_onnx: Path, method: str, form: Any, tmp_path: Path) -> None:
    assert rtx.parse(saved(compress(tiny_llava_encoder_onnx, method, keep=KEEP, form=form), tmp_path)) == []


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("pixel_unshuffle", {"version": "v1"}),
        ("pixel_unshuffle", {"version": "v2"}),
        ("pool", {"mode": "average"}),
        ("pool", {"mode": "bilinear"}),
        ("pool", {"mode": "max"}),
    ],
)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_transformations_of_a_grid_build(method: str, params: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    """A graph that ends at its tokens takes any number of channels."""
    text = f'<ir_version: 8, opset_import: ["" : 18]> g ({dtype}[1,36,8] x) => ({dtype}[1,36,8] t) {{ t = Relu(x) }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    model = compress(model, method, keep=9, seam="tensor:t", params={"grid": "6x6", **params})
    assert_builds(saved(model, tmp_path))


@pytest.mark.parametrize("method", METHODS)
def test_plugin_form_is_refused_only_for_want_of_the_plugin(encoder: Path, method: str, tmp_path: Path) -> None:
    (error,) = rtx.parse(saved(compress(encoder, method, keep=KEEP, form="plugin"), tmp_path))
    assert error.op == {"apet": "TokexportApet", "kcenter_merge": "TokexportKcenterMerge"}[method]
    assert "Plugin not found" in error.reason


def test_two_counts_in_one_graph_build(tiny_vlm_encoder_onnx: Path, tmp_path: Path) -> None:
    """The same method twice: the second compressor takes what the first one left."""
    once = compress(tiny_vlm_encoder_onnx, "kcenter_merge", keep=36)
    names = {name: f"{name}_2" for name in ("kept_indices", "sizes", "assignment")}
    twice = compress(once, "kcenter_merge", keep=KEEP, seam=f"tensor:{once.graph.outputs[0].name}", outputs=names)
    assert len(twice.functions) == 2
    for name, model in (("portable", twice), ("inlined", forms.to_inlined(twice))):
        (tmp_path / name).mkdir()
        assert_builds(saved(model, tmp_path / name))
    errors = rtx.parse(saved(forms.to_plugin(twice), tmp_path))
    assert {error.op for error in errors} == {"TokexportKcenterMerge"}


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_builds(encoder: Path, method: str, tmp_path: Path) -> None:
    model = load_model(encoder)
    precision.to_half(model)
    assert_builds(saved(compress(model, method, keep=KEEP), tmp_path))


@pytest.mark.parametrize(("dtype", "expected"), [("float16", ir.DataType.FLOAT16), ("bfloat16", ir.DataType.BFLOAT16)])
def test_compressor_takes_the_half_precision_of_its_seam(
    tiny_llava_encoder_onnx: Path, dtype: Any, expected: ir.DataType, tmp_path: Path
) -> None:
    model = load_model(tiny_llava_encoder_onnx)
    precision.to_half(model, dtype)
    model = compress(model, "apet", keep=KEEP)
    (node,) = forms.compressor_nodes(model)
    assert node.inputs[0] is not None
    assert node.inputs[0].dtype == node.outputs[0].dtype == expected
    assert node.outputs[2].dtype == ir.DataType.FLOAT
    assert_builds(saved(model, tmp_path))


def test_half_precision_agrees_with_float32(encoder: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = load_model(encoder)
    feeds = {
        value.name or "": np.random.default_rng(0).standard_normal([int(n) for n in value.shape or ()], np.float32)
        for value in model.graph.inputs
    }

    def run(some: ir.Model) -> np.ndarray:
        path = encoder.parent / "half.onnx"
        save_model(some, path, "half.onnx.data")
        return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)[0].ravel()

    expected = run(model).astype(np.float64)
    assert ranges.find_islands(model, feeds) == {}
    report = precision.to_half(model)
    got = run(model).astype(np.float64)
    assert got @ expected / np.linalg.norm(got) / np.linalg.norm(expected) > 0.9999
    assert {node.op_type for node in model.graph if node.name in report.islands} >= {"LayerNormalization", "Softmax"}
    assert 0 < len(report.islands) < report.nodes


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_graph_of_a_bundle_builds(tmp_path: Path, precision: Any) -> None:
    from tokexport.exporter.pipeline import export
    from tokexport.runtimes.reader import open_bundle

    done = export(out=tmp_path / "b", method="kcenter_merge", keep=21, precision=precision, verify=False)
    graphs = open_bundle(done.bundle).variant().graphs
    assert set(graphs) == {"encoder", "embed", "prefill", "decode"}
    for record in graphs.values():
        assert_builds(done.bundle / record.forms["portable"])
