"""Real encoders, compressed: TensorRT builds them in every form, the plugin form with the plugins in Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokexport.errors import RequestError
from tokexport.graph_passes import forms
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.compressors import Case, Compressor, base, make
from tokexport.graph_passes.compressors.base import Learned
from tokexport.graph_passes.insertion.insert import EXTRA_OUTPUTS, insert
from tokexport.graph_passes.ir_tools.model_io import load_model, save_model
from tokexport.graph_passes.precision import half as precision
from tokexport.graph_passes.precision import ranges
from tokexport.graph_passes.seams.find import resolve
from tokexport.graph_passes.seams.seam import Seam
from tokexport.runtimes.tensorrt import rtx

pytest.importorskip("tensorrt_rtx")

ENCODERS = ("tiny_vlm_encoder_onnx", "tiny_llava_encoder_onnx", "tiny_whisper_encoder_onnx")
FORMS = ("portable", "inlined", "plugin")
# What is inlined are the nodes that the portable form has in a function.
EACH = ("portable", pytest.param("inlined", marks=pytest.mark.slow), "plugin")
KEEP = 12


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Path:
    """An exported encoder with its weights in external data."""
    return request.getfixturevalue(request.param)


def saved(model: ir.Model, folder: Path) -> Path:
    save_model(model, folder / "model.onnx", "model.onnx.data")
    return folder / "model.onnx"


def assert_builds(path: Path) -> None:
    built = rtx.build(path, plugins="python")
    assert built.ok, "\n".join(map(str, built.errors))
    assert built.bytes > 0


def in_form(model: ir.Model, form: str) -> ir.Model:
    return {"portable": lambda m: m, "inlined": forms.to_inlined, "plugin": forms.to_plugin}[form](model)


def fork(model: ir.Model, seam: Seam, compressors: list[tuple[Compressor, int]]) -> None:
    """All compressors side by side, each on a copy of the seam's tensor: one engine shows what many would."""
    for i, (compressor, keep) in enumerate(compressors):
        # `insert` replaces the graph, so the tensor is looked up again each time.
        tokens = next(v for node in model.graph for v in node.outputs if v.name == seam.tensor)
        copy = ir.node("Identity", [tokens], name=f"branch_{i}")
        copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = f"branch_{i}", tokens.type, tokens.shape
        model.graph.append(copy)
        model.graph.outputs.append(copy.outputs[0])
        place = replace(seam, name=f"tensor:branch_{i}", tensor=f"branch_{i}")
        insert(model, place, compressor, keep, outputs={name: f"{name}_{i}" for name in EXTRA_OUTPUTS})


def a_count(compressor: Compressor, seam: Seam) -> int:
    """The smallest count from `KEEP` up that the method reaches of these tokens."""
    for keep in range(KEEP, seam.tokens):
        try:
            compressor.check(Case(seam.tokens, seam.dim, keep, seam.dtype, seam.grid))
        except RequestError:
            continue
        return keep
    raise AssertionError(f"{compressor.method.name} reaches no count of {seam.tokens}")


# The two others are built with every method.
@pytest.mark.parametrize("form", FORMS)
def test_an_encoder_builds(tiny_llava_encoder_onnx: Path, form: Any, tmp_path: Path) -> None:
    assert_builds(saved(compress(tiny_llava_encoder_onnx, "apet", keep=KEEP, form=form), tmp_path))


@pytest.mark.parametrize("form", EACH)
@pytest.mark.parametrize(
    ("modality", "name"), [("image", ENCODERS[0]), pytest.param("audio", ENCODERS[2], marks=pytest.mark.slow)]
)
def test_every_method_builds(
    modality: str, name: str, form: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = load_model(request.getfixturevalue(name))
    seam = resolve(model, "auto", "projector_output")
    known = [make(method) for method in sorted(base.built_in()) if modality in make(method).method.modalities]
    known = [each for each in known if form != "plugin" or each.method.plugin_form]
    # Layers that need weights have no choices of their own to build: a convolution and a pooling stand for them.
    known = [each for each in known if not isinstance(each, Learned) or each.method.name in ("conv1d", "ldpv2")]
    there = [each for each in known if {*each.signals()} <= {*seam.signals}]
    unread = {signal for each in known for signal in each.signals()} - {*seam.signals}
    assert unread <= ({"text"} if modality == "image" else {"text", "cls_attention"})
    fork(model, seam, [(each, a_count(each, seam)) for each in there])
    model = in_form(model, form)
    kinds = {node.metadata_props.get("tokexport.method") for node in model.graph}
    assert kinds >= {each.method.name for each in there} >= {"kcenter_merge", "pool", "random", "uniform"}
    assert_builds(saved(model, tmp_path))


@pytest.mark.parametrize("form", EACH)
@pytest.mark.parametrize("dtype", ["float", "float16", "bfloat16"])
def test_transformations_of_a_grid_build(dtype: str, form: str, tmp_path: Path) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 18]> g ({dtype}[1,36,8] x) => ({dtype}[1,36,8] t) {{ t = Relu(x) }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    seam = replace(resolve(model, "tensor:t"), grid=(6, 6))
    given = [("pool", {"mode": mode}) for mode in ("average", "bilinear", "max")]
    given += [("pixel_unshuffle", {"version": version}) for version in ("v1", "v2")]
    fork(model, seam, [(make(method, params), 9) for method, params in given])
    assert_builds(saved(in_form(model, form), tmp_path))


def test_the_plugin_form_is_refused_only_for_want_of_the_plugin(tiny_vlm_encoder_onnx: Path, tmp_path: Path) -> None:
    path = saved(compress(tiny_vlm_encoder_onnx, "kcenter_merge", keep=KEEP, form="plugin"), tmp_path)
    (error,) = rtx.parse(path)
    assert error.op == "TokexportKcenterMerge" and "Plugin not found" in error.reason
    assert rtx.parse(path, plugins="python") == []


def test_two_counts_in_one_graph_build(tiny_vlm_encoder_onnx: Path, tmp_path: Path) -> None:
    """The same method twice: the second compressor takes what the first one left."""
    once = compress(tiny_vlm_encoder_onnx, "kcenter_merge", keep=36)
    first = ("kept_indices", "sizes", "assignment")
    names = {name: f"{name}_2" for name in first}
    place = f"tensor:{once.graph.outputs[0].name}"
    twice = compress(once, "kcenter_merge", keep=KEEP, seam=place, outputs=names, drop_outputs=first)
    assert len(twice.functions) == 2
    for form in FORMS:
        (tmp_path / form).mkdir()
        assert_builds(saved(in_form(twice, form), tmp_path / form))


@pytest.mark.parametrize(("method", "form"), [("kcenter_merge", "portable"), ("apet", "plugin")])
def test_half_precision_builds(encoder: Path, method: str, form: Any, tmp_path: Path) -> None:
    model = load_model(encoder)
    precision.to_half(model)
    assert_builds(saved(compress(model, method, keep=KEEP, form=form), tmp_path))


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


@pytest.mark.parametrize(("precision", "size_bias"), [("fp32", "auto"), ("fp16", "positions")])
def test_every_graph_of_a_bundle_builds(tmp_path: Path, precision: Any, size_bias: str) -> None:
    from tokexport.exporter.pipeline import export
    from tokexport.runtimes.bundle.reader import open_bundle

    asked = {"method": "kcenter_merge", "keep": 21, "precision": precision, "size_bias": size_bias}
    done = export(out=tmp_path / "b", verify=False, **asked)
    graphs = open_bundle(done.bundle).variant().graphs
    assert set(graphs) == {"encoder", "embed", "prefill", "decode"}
    assert "plugin" in graphs["encoder"].forms
    for file in {file for record in graphs.values() for file in record.forms.values()}:
        assert_builds(done.bundle / file)


# A seam inside the encoder and another one between the layers of the language model.
BOTH = """
[[steps]]
method = "kcenter_merge"
seam = "encoder_layer:0"
ratio = "1/2"

[[steps]]
method = "cls_topk"
seam = "decoder_layer:1"
ratio = "1/2"
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fastv", BOTH])
def test_every_graph_of_a_bundle_with_a_cut_in_the_language_model_builds(tmp_path: Path, recipe: str) -> None:
    import tiny_checkpoints
    from tokexport.exporter.pipeline import export
    from tokexport.runtimes.bundle.reader import open_bundle

    folder = tiny_checkpoints.whole_llava(tmp_path / "deep", depth=3, loud=True)
    if recipe is BOTH:
        (tmp_path / "both.toml").write_text(recipe)
        recipe = tmp_path / "both.toml"  # type: ignore[assignment]
    lengths = {"prompt_length": 24, "answer_length": 20}
    done = export(str(folder), tmp_path / "b", recipe=recipe, verify=False, **lengths)  # type: ignore[arg-type]
    graphs = open_bundle(done.bundle).variant().graphs
    assert "kept_indices_1" in graphs["prefill"].outputs and "plugin" in graphs["prefill"].forms
    for file in {file for record in graphs.values() for file in record.forms.values()}:
        assert_builds(done.bundle / file)
