"""An open bundle holds what it opened, and everything that is read of it is in the manifest."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import toy_bundle
from tokexport.errors import BundleError, GraphError, TokexportError
from tokexport.exporter.proof import probes
from tokexport.runtimes.bundle.external_data import external_data
from tokexport.runtimes.bundle.reader import open_bundle, verify_hashes
from tokexport.runtimes.load import load

PIXELS = np.zeros((1, 3, 4, 4), np.float32)
# Weights large enough to lie in a data file.
HEAVY = toy_bundle.ENCODER.replace("float[1] zero = {0}", f"float[400] zero = {{{', '.join(['0'] * 400)}}}").replace(
    "scaled = Mul (mean, zero)",
    "none = ReduceMean <keepdims = 0> (zero)\n  scaled = Mul (mean, none)",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy_bundle.write(tmp_path / "toy", encoder=HEAVY)


def edit(folder: Path, **files: Any) -> None:
    """Change `files` of the manifest: a record replaces one, None takes it out."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    merged = manifest["files"] | files
    manifest["files"] = {name: record for name, record in merged.items() if record is not None}
    path.write_text(json.dumps(manifest))


def test_data_that_the_manifest_does_not_list_is_neither_verified_nor_run(folder: Path) -> None:
    edit(folder, **{"encoder.onnx.data": None})
    with pytest.raises(BundleError, match=r"encoder\.onnx reads 'encoder\.onnx\.data'.* does not list"):
        verify_hashes(open_bundle(folder))
    with pytest.raises(BundleError, match="does not list"):
        load(folder).encode(PIXELS)


def test_a_proof_that_the_manifest_does_not_list_proves_nothing(folder: Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    (other / "proof.npz").write_bytes(probes.to_bytes([]))
    (folder / "proof.npz").symlink_to(other / "proof.npz")
    with pytest.raises(BundleError, match=r"proof\.npz is not among the files of the manifest"):
        probes.of_bundle(open_bundle(folder))


@pytest.mark.parametrize("name", ["manifest.json", "encoder.onnx", "processor/words.json"])
def test_a_pipe_is_refused_at_once(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match=r"regular file|is no bundle"):
        open_bundle(folder)


def test_a_manifest_behind_a_link_is_refused(folder: Path) -> None:
    (folder / "manifest.json").rename(folder.parent / "m.json")
    (folder / "manifest.json").symlink_to(folder.parent / "m.json")
    with pytest.raises(BundleError, match="symbolic link"):
        open_bundle(folder)


def test_data_is_found_wherever_a_tensor_can_stand() -> None:
    def outside(name: str) -> onnx.TensorProto:
        tensor = onnx.TensorProto(name=name, data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=name)
        return tensor

    inner = onnx.helper.make_graph([], "inner", [], [], initializer=[outside("branch")])
    nodes = [
        onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner),
        onnx.helper.make_node("Constant", [], ["k"], value=outside("constant")),
        onnx.helper.make_node("Any", [], ["l"], values=[outside("list")]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [], initializer=[outside("weight")])
    model = onnx.helper.make_model(graph)
    called = onnx.helper.make_node("Constant", [], ["k"], value=outside("function"))
    model.functions.add(name="f", domain="d").node.append(called)
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(outside("values"))
    sparse.indices.CopyFrom(outside("indices"))
    found = external_data(Path("b"), "sub/g.onnx", model.SerializeToString())
    names = ("branch", "constant", "function", "indices", "list", "values", "weight")
    assert found == [f"sub/{name}" for name in names]


def test_the_name_of_a_data_file_is_text() -> None:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], initializer=[tensor]))
    content = model.SerializeToString().replace(b"weights", b"weight\xff")
    with pytest.raises(GraphError, match=r"reads the file b'weight\\xff', which is no text"):
        external_data(Path("b"), "g.onnx", content)


def replaced(folder: Path) -> None:
    """Another bundle in the place of the first, as a new export leaves it."""
    new = toy_bundle.write(folder.parent / "new", encoder=HEAVY.replace("{1, 3}", "{0, 2}"))
    folder.rename(folder.parent / "old")
    new.rename(folder)


@pytest.mark.parametrize("change", ["replaced", "written over", "data"])
def test_a_session_does_not_read_what_it_did_not_open(folder: Path, change: str) -> None:
    session = load(folder)
    file = folder / ("encoder.onnx.data" if change == "data" else "encoder.onnx")
    if change == "replaced":
        replaced(folder)
    else:
        before, content = file.stat(), bytearray(file.read_bytes())
        time.sleep(0.02)
        content[-1] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleError, match=r"has changed since the bundle was opened.*Open the bundle again"):
        session.encode(PIXELS)


def test_the_vocabulary_is_that_of_the_opened_bundle(folder: Path) -> None:
    session = load(folder)
    path = folder / "processor/words.json"
    path.write_text(path.read_text().replace('"a"', '"z"'))
    with pytest.raises(BundleError, match=r"processor/words\.json has changed"):
        session.generate(PIXELS, "a")


def test_a_graph_that_was_replaced_while_it_was_read(folder: Path) -> None:
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match="has changed"), bundle.reading("encoder"):
        replaced(folder)


def test_the_same_content_in_another_file_is_the_same(folder: Path) -> None:
    session = load(folder)
    shutil.copytree(folder, folder.parent / "copy")
    shutil.rmtree(folder)
    (folder.parent / "copy").rename(folder)
    assert session.encode(PIXELS)["tokens"].shape == (1, 2, 1)


def test_a_bundle_replaced_while_it_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokexport.runtimes.bundle import reader

    parse = reader.parse_manifest

    def slow(*args: Any) -> Any:
        manifest = parse(*args)
        replaced(folder)
        return manifest

    monkeypatch.setattr(reader, "parse_manifest", slow)
    with pytest.raises(BundleError, match="replaced while it was opened"):
        open_bundle(folder)


@pytest.mark.parametrize(("shape", "dtype"), [([1, 3, 1], "float32"), ([1, 2, 1], "float16")])
def test_outputs_are_those_of_the_manifest(folder: Path, shape: list[int], dtype: str) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["variants"][0]["graphs"]["encoder"]["outputs"]["tokens"] |= {"shape": shape, "dtype": dtype}
    path.write_text(json.dumps(manifest))
    with pytest.raises(GraphError, match=r"output 'tokens' of encoder is float32 \[1, 2, 1\], and the manifest says"):
        load(folder).encode(PIXELS)


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000 + "b", "\ud800"])
def test_names_that_no_file_can_have(folder: Path, name: str) -> None:
    edit(folder, **{name: {"size": 0, "sha256": "0" * 64}})
    with pytest.raises(TokexportError):
        open_bundle(folder)


def test_a_proof_must_speak_of_every_graph(folder: Path) -> None:
    from tokexport.exporter.proof.verify import verify

    one = {"x": np.ones((1, 4, 1), np.float32)}
    content = probes.to_bytes([probes.Probe("head", "encoder", one, one)])
    (folder / "proof.npz").write_bytes(content)
    edit(folder, **{"proof.npz": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}})
    with pytest.raises(BundleError, match=r"proof\.npz holds nothing that proves decode of toy-0\.5"):
        verify(folder)
