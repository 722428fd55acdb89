"""Engines built for real by TensorRT-RTX, which needs no GPU: the forms of a compressed graph, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import toy_bundle
from click.testing import CliRunner
from tokexport.errors import BundleError, GraphError, MissingError, RequestError
from tokexport.exporter.cli import main
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.precision.half import to_half
from tokexport.plugins.structs import MAX_TOKENS
from tokexport.runtimes.bundle.manifest import Variant
from tokexport.runtimes.bundle.reader import Bundle, open_bundle
from tokexport.runtimes.bundle.writer import BundleWriter
from tokexport.runtimes.tensorrt.engines import build as engine_build
from tokexport.runtimes.tensorrt.engines import file as engine_file
from tokexport.runtimes.tensorrt.engines import form as engine_form

pytest.importorskip("tensorrt_rtx")
N, D, KEEP = 16, 8, 4
KEPT = ("kept_indices", "sizes", "assignment")


@pytest.fixture(autouse=True)
def no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where no plugin library was built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TOKEXPORT_PLUGINS", raising=False)


def encoder(last: str = "Relu", *constants: object, n: int = 1, **attributes: object) -> ir.Model:
    """pixels [1, N, D] -> a MatMul -> the seam `features` -> `suspect` -> tokens."""
    pixels = ir.val("pixels", ir.DataType.FLOAT, (1, N, D))
    weight = ir.Value(name="w", const_value=ir.tensor(np.eye(D, dtype=np.float32)), shape=ir.Shape((D, D)),
                      type=ir.TensorType(ir.DataType.FLOAT))  # fmt: skip
    values = [ir.Value(name=f"c{i}", const_value=ir.tensor(np.asarray(c))) for i, c in enumerate(constants)]
    project = ir.node("MatMul", [pixels, weight], name="project")
    suspect = ir.node(last, [*project.outputs, *values], attributes, num_outputs=n, name="suspect")
    project.outputs[0].name, suspect.outputs[0].name = "features", "tokens"
    for i, value in enumerate(suspect.outputs[1:]):
        value.name = f"more_{i}"
    for value in (project.outputs[0], suspect.outputs[0]):
        value.type, value.shape = pixels.type, ir.Shape((1, N, D))
    graph = ir.Graph([pixels], suspect.outputs[:1], nodes=[project, suspect], initializers=[weight, *values],
                     opset_imports={"": 18}, name="encoder")  # fmt: skip
    return ir.Model(graph, ir_version=10)


def written(folder: Path, model: ir.Model, outputs: tuple[str, ...] = (), half: bool = False) -> Bundle:
    """A bundle of an encoder alone, in all forms."""
    with BundleWriter(folder) as writer:
        roles = ({"pixels": "pixels"}, {"tokens": "tokens"} | {name: name for name in outputs})
        record = writer.add_graph("encoder", model, roles, "fp16" if half else "fp32")
        made = toy_bundle.manifest({"encoder": record})
        variant = Variant(name="k-4", compression=made.variants[0].compression, graphs={"encoder": record})
        manifest = made.model_copy(update={"variants": [variant], "processor": made.processor.model_validate({})})
        writer.commit(manifest)
    return open_bundle(folder)


def compressed(folder: Path, half: bool = False) -> Bundle:
    model = encoder()
    if half:
        to_half(model)
    return written(folder, compress(model, "kcenter_merge", keep=KEEP, seam="tensor:features"), KEPT, half)


def test_the_command_builds_all_three_forms_and_says_why(tmp_path: Path) -> None:
    bundle = compressed(tmp_path / "b", half=True)
    whys = {None: "there is no plugin library here", "inlined": "as asked", "plugin": "it builds and cannot run"}
    for form, why in whys.items():
        asked = ["--form", form] if form else []
        done = CliRunner().invoke(main, ["build", str(bundle.path), "--device", "sm86", "--wide", *asked])
        assert done.exit_code == 0, done.output
        assert why in done.stdout and "no GPU here can load these engines" in done.stdout
        record = engine_file.read(bundle, "sm86", "k-4", "encoder")
        assert (record.form, record.precision) == (form or "portable", "fp16")
        assert record.plugins.names == (["TokexportKcenterMerge"] if form == "plugin" else [])
        (look,) = record.layers
        assert look.stage == "network" and look.compared >= 4
        # TensorRT-RTX does nothing with a timing cache, so there is none to pin.
        assert record.timing_cache is None and not list(bundle.path.rglob("*.timing.cache"))
        engine_file.check(bundle, record, "tensorrt-rtx", record.version, "8.6")
    assert open_bundle(bundle.path).manifest == bundle.manifest


def test_a_library_or_a_rule_chooses_the_form(tmp_path: Path) -> None:
    bundle, library = compressed(tmp_path / "b"), Path("libtokexport_plugins.so")

    def choice(version: str, asked: str | None = None, there: Path | None = None) -> engine_form.Choice:
        return engine_form.choose(bundle, "encoder", "k-4", asked, "tensorrt", version, there)  # type: ignore[arg-type]

    with_library = choice("10.3", there=library)
    assert (with_library.form, with_library.others) == ("plugin", ("portable", "inlined"))
    assert (choice("10.3").form, choice("10.3", "inlined").form) == ("portable", "inlined")
    with pytest.raises(MissingError, match="plugins build"):
        choice("10.3", "plugin")
    with pytest.raises(GraphError, match=r"TensorRT 8\.5 cannot build the plugin form of encoder: .*opset"):
        choice("8.5", "plugin", library)


def test_a_method_without_a_plugin_is_built_in_its_other_forms(tmp_path: Path) -> None:
    bundle = written(tmp_path / "b", compress(encoder(), "dpc_knn", keep=KEEP, seam="tensor:features"), KEPT)
    chosen = engine_form.choose(bundle, "encoder", "k-4", None, "tensorrt", "10.3", Path("libtokexport_plugins.so"))
    assert (chosen.form, chosen.why) == ("portable", "the bundle has no plugin form of it")
    with pytest.raises(RequestError, match="method 'dpc_knn' has no TensorRT plugin"):
        engine_form.choose(bundle, "encoder", "k-4", "plugin", "tensorrt", "10.3", None)


def test_what_needs_no_plugin_is_built_in_the_plugin_form_without_the_library(tmp_path: Path) -> None:
    bundle = written(tmp_path / "b", compress(encoder(), "uniform", keep=KEEP, seam="tensor:features"), KEPT)
    chosen = engine_form.choose(bundle, "encoder", "k-4", None, "tensorrt", "10.3", None)
    assert (chosen.form, chosen.why) == ("plugin", "it needs no plugin: its compressors are inlined")
    asked = engine_form.choose(bundle, "encoder", "k-4", "plugin", "tensorrt", "10.3", None)
    assert (asked.form, asked.why) == ("plugin", "as asked")
    assert chosen.others == asked.others == ("portable", "inlined")
    done = CliRunner().invoke(main, ["build", str(bundle.path), "--device", "sm86", "--form", "plugin", "--json"])
    (engine,) = json.loads(done.stdout)["engines"]
    assert (engine["form"], engine["plugins"]) == ("plugin", [])


def test_json_says_what_the_table_says(tmp_path: Path) -> None:
    bundle = written(tmp_path / "b", encoder())
    done = CliRunner().invoke(main, ["build", str(bundle.path), "--device", "rtx-4090", "--runtime", "rtx", "--json"])
    data = json.loads(done.stdout)
    assert (data["device"], data["compute_capability"], data["runtime"]) == ("rtx-4090", "8.9", "tensorrt-rtx")
    assert data["workspace"] == 12 * 2**30, "half of the card's own memory"
    (engine,) = data["engines"]
    assert engine["why"] == "there is no compressor in it: all forms are this one"
    assert (bundle.path / engine["plan"]).stat().st_size == engine["bytes"] > 1000


def test_topk_above_the_limit_is_refused_with_its_node(tmp_path: Path) -> None:
    long = ir.val("pixels", ir.DataType.FLOAT, (1, 4000))
    topk = ir.node("TopK", [long, ir.Value(name="k", const_value=ir.tensor(np.array([3841])))], num_outputs=2, name="n")
    for value, name, dtype in zip(topk.outputs, ("tokens", "i"), (ir.DataType.FLOAT, ir.DataType.INT64)):
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape((1, 3841))
    graph = ir.Graph([long], topk.outputs[:1], nodes=[topk], initializers=topk.inputs[1:], opset_imports={"": 18},
                     name="g")  # fmt: skip
    bundle = written(tmp_path / "b", ir.Model(graph, ir_version=10))
    with pytest.raises(GraphError, match=r"encoder: TopK 'n': TopK takes K up to 3840.*Change that node"):
        engine_build.build_engines(bundle, device="sm86")
    assert not list(bundle.path.rglob("*.plan"))


def test_a_node_that_the_parser_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The rules know NonZero, so they are left out: what they do not know, the parser says.
    monkeypatch.setattr(engine_form, "violations", lambda *_: [])
    bundle = written(tmp_path / "b", encoder("NonZero"))
    with pytest.raises(GraphError, match=r"cannot build the engine \(portable form\): NonZero 'suspect'.*plugin"):
        engine_build.build_engines(bundle, device="sm86")


def test_what_only_the_builder_refuses_ends_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_form, "violations", lambda *_: [])
    model = encoder("TopK", [3841], n=2, axis=-1)
    for value in (model.graph.inputs[0], model.graph[0].outputs[0], model.graph.outputs[0]):
        value.shape = ir.Shape((1, N, 4000))
    model.graph.initializers["w"].const_value = ir.tensor(np.zeros((4000, 4000), np.float32))
    bundle = written(tmp_path / "b", model)
    with pytest.raises(GraphError, match=r"a TopK takes more than 3840 elements: .*suspect.*--keep"):
        engine_build.build_engines(bundle, device="sm86")


def test_what_a_plugin_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    model = encoder()
    for value in (model.graph.inputs[0], model.graph[0].outputs[0], model.graph.outputs[0]):
        value.shape = ir.Shape((1, MAX_TOKENS + 1, D))
    model = compress(model, "topk", keep=KEEP, seam="tensor:features", params={"score": "norm"})
    bundle = written(tmp_path / "b", model, KEPT)
    with pytest.raises(GraphError, match=rf"\(plugin form\): TokexportTopk .*N is {MAX_TOKENS + 1}.*--form portable"):
        engine_build.build_engines(bundle, device="sm86", form="plugin")


def test_what_the_child_finds_missing_keeps_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no-library.so").write_text("no library")
    monkeypatch.setenv("TOKEXPORT_PLUGINS", str(tmp_path / "no-library.so"))
    with pytest.raises(MissingError) as caught:
        engine_build.build_engines(compressed(tmp_path / "b"), device="sm86", form="plugin")
    assert caught.value.exit_code == 3 and "no-library.so" in str(caught.value)


def test_devices_that_it_cannot_build_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = written(tmp_path / "b", encoder())
    for device, words in {
        "orin-nano-8gb": r"not build for orin-nano-8gb, compute capability 8\.7.*7\.5, 8\.6.*on it",
        "sm90": r"not build for sm90, compute capability 9\.0",
        "rtx-4090@11.1": r"names TensorRT 11\.1, and TensorRT-RTX",
        "rtx-409": "unknown device.*Did you mean rtx-4090",
    }.items():
        with pytest.raises(RequestError, match=words):
            engine_build.build_engines(bundle, device=device, runtime="rtx")
    monkeypatch.setattr("tokexport.runtimes.tensorrt.cuda.gpu_here", lambda: None)
    with pytest.raises(MissingError, match="no --device says what to build for"):
        engine_build.build_engines(bundle, runtime="rtx")


def test_an_unwritable_bundle_is_named(tmp_path: Path) -> None:
    bundle = written(tmp_path / "b", encoder())
    (bundle.path / "engines").touch()
    with pytest.raises(BundleError, match=r"the engine cannot be written: .*Copy the bundle"):
        engine_build.build_engines(bundle, device="sm86")
