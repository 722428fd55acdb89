import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import pytest
import toy_bundle
from tokexport.errors import BundleError, GraphError
from tokexport.runtimes.bundle import weights as weights_module
from tokexport.runtimes.bundle import writer as writer_module
from tokexport.runtimes.bundle.reader import open_bundle, verify_hashes
from tokexport.runtimes.bundle.weights import DataFile
from tokexport.runtimes.bundle.writer import BundleWriter
from toy_model import model, ones


def test_files_are_listed_with_size_and_hash(tmp_path: Path) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    listed = json.loads((out / "manifest.json").read_text())["files"]
    on_disk = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert on_disk == {*listed, "manifest.json"}
    for name, record in listed.items():
        content = (out / name).read_bytes()
        assert record == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_no_links_are_made(tmp_path: Path) -> None:
    source = tmp_path / "w.bin"
    source.write_bytes(bytes(range(256)))
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_model("encoder.onnx", model(a=ones(1000)))
        writer.add_file("copy.bin", source)
        for path in writer.folder.rglob("*"):
            assert not path.is_symlink()
            assert path.stat().st_nlink == 1 or path.is_dir()
        assert (writer.folder / "copy.bin").read_bytes() == source.read_bytes()


def test_paths_of_the_machine_are_left_out(tmp_path: Path) -> None:
    source = model(a=ones(1000))
    source.graph.node(0).metadata_props["pkg.torch.onnx.stack_trace"] = 'File "/home/somebody/x.py", line 1'
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_model("encoder.onnx", source)
        assert b"somebody" not in (writer.folder / "encoder.onnx").read_bytes()
    assert source.graph.node(0).metadata_props, "the caller's model changed"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "manifest.json", "twice"])
def test_names_must_be_new_and_inside(tmp_path: Path, name: str) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_file("twice", b"1")
        with pytest.raises(BundleError, match=r"path|already"):
            writer.add_file(name, b"2")
        with pytest.raises(BundleError, match="missing"):
            writer.add_file("new", tmp_path / "none")


def test_manifest_may_only_name_what_was_added(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        manifest = toy_bundle.fill(writer)
        manifest.processor.vocabulary = "processor/other.json"
        with pytest.raises(BundleError, match=r"processor/other\.json, which was not added"):
            writer.commit(manifest)


def test_finish_makes_a_readable_bundle_and_can_be_repeated(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        manifest = toy_bundle.fill(writer)
        writer.finish(manifest)
        verify_hashes(open_bundle(writer.folder))
        writer.add_json("parity.json", {"ok": True})
        manifest.parity["accuracy"] = 1.0
        writer.commit(manifest)
    bundle = open_bundle(tmp_path / "out")
    assert bundle.manifest.parity == {"accuracy": 1.0}
    assert verify_hashes(bundle) == 6


def test_second_bundle_replaces_the_first(tmp_path: Path) -> None:
    out = toy_bundle.write(tmp_path / "toy", size_bias=True)
    (out / "engines").mkdir()
    toy_bundle.write(out, size_bias=False)
    bundle = open_bundle(out)
    assert not bundle.manifest.variants[0].compression[0].size_bias
    assert not (out / "engines").exists(), "engines of the old weights must not survive"
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_force_replaces_everything(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").touch()
    with pytest.raises(BundleError, match="--force"):
        BundleWriter(out)
    with BundleWriter(out, force=True) as writer:
        assert (out / "notes.txt").exists()
        writer.commit(toy_bundle.fill(writer))
    verify_hashes(open_bundle(out))
    assert not (out / "notes.txt").exists()


def test_a_file_that_came_meanwhile_is_not_deleted_unnamed(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/late.txt").touch()
        with pytest.raises(BundleError, match=r"late\.txt"):
            writer.commit(toy_bundle.fill(writer))
    assert (tmp_path / "out/late.txt").exists()


def test_force_names_each_foreign_file_once_before_it_is_deleted(tmp_path: Path) -> None:
    named = []

    def deleting(folder: Path, names: Sequence[str]) -> None:
        assert all((folder / name).exists() for name in names)
        named.append((folder.name, list(names)))

    for folder in ("out", "out.failed"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").touch()
    with BundleWriter(tmp_path / "out", force=True, deleting=deleting) as writer:
        assert named == [("out", ["a.txt"])]
        (tmp_path / "out/late.txt").touch()
        writer.commit(toy_bundle.fill(writer))
    with BundleWriter(tmp_path / "out", force=True, deleting=deleting) as writer:
        writer.commit_failed(toy_bundle.fill(writer))
    assert named == [("out", ["a.txt"]), ("out", ["late.txt"]), ("out.failed", ["a.txt"])]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, GraphError])
def test_interrupted_it_leaves_the_old_bundle(tmp_path: Path, error: type[BaseException]) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(error), BundleWriter(out) as writer:
        toy_bundle.fill(writer, size_bias=False)
        writer.add_model("extra.onnx", model(a=ones(1000)))
        raise error("stop")
    assert all(file._file.closed for file in writer._open.values())
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_without_a_commit_nothing_is_written(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        toy_bundle.fill(writer)
    assert not list(tmp_path.iterdir())


def test_failed_result_goes_beside_the_old_bundle(tmp_path: Path) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    for _ in range(2):
        with BundleWriter(out) as writer:
            failed = writer.commit_failed(toy_bundle.fill(writer, size_bias=False))
    assert failed == tmp_path / "toy.failed"
    assert open_bundle(out).manifest.variants[0].compression[0].size_bias
    assert not open_bundle(failed).manifest.variants[0].compression[0].size_bias
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy", "toy.failed"]


def test_ctrl_c_in_another_process(tmp_path: Path) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    script = (
        "import signal, sys, time, toy_bundle; from tokexport.runtimes.bundle.writer import BundleWriter\n"
        # A shell lets what it runs in the background ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with BundleWriter(sys.argv[1]) as writer:\n"
        "    toy_bundle.fill(writer, size_bias=False); print('half', flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(30) != 0
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    assert open_bundle(out).manifest.variants[0].compression[0].size_bias


def test_full_disk_is_seen_before_anything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = writer_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda path: usage._replace(free=3_000_000))
    monkeypatch.setattr(DataFile, "add", lambda self, tensor: pytest.fail("copied all the same"))
    message = r"disk is full: encoder\.onnx\.data needs 4 MB and finds 3 MB free"
    with pytest.raises(BundleError, match=message), BundleWriter(tmp_path / "out") as writer:
        writer.add_model("encoder.onnx", model(a=ones(1_000_000)))
    assert not list(tmp_path.iterdir())


def test_weights_that_a_variant_before_it_has_need_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = writer_module.shutil.disk_usage(tmp_path)
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_model("encoder.onnx", model(a=ones(1_000_000)))
        monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
        writer.add_model("encoder.b.onnx", model(b=ones(1_000_000), c=ones(100_000, 2), d=ones(100_000, 2)))
        assert (writer.folder / "encoder.onnx.data").stat().st_size < 4_500_000
        with pytest.raises(BundleError, match="disk is full"):
            writer.add_model("encoder.c.onnx", model(a=ones(1_000_000, 3)))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("ENOSPC", r"disk is full: encoder\.onnx\.data needs 4 MB"),
        ("EDQUOT", "your quota on this disk is used up"),
        ("EFBIG", "larger than a file can be on this file system"),
    ],
)
def test_why_a_write_failed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str) -> None:
    def full(*args: object) -> None:
        raise OSError(getattr(errno, code), "written half-way")

    monkeypatch.setattr(writer_module.DataFile, "add", full)
    with BundleWriter(tmp_path / "out") as writer, pytest.raises(BundleError, match=says):
        writer.add_model("encoder.onnx", model(a=ones(1_000_000)))


def test_a_write_that_fails_underway(tmp_path: Path) -> None:
    """A limit on the size of files stops the write itself, half-way, and is not called a full disk."""
    out = toy_bundle.write(tmp_path / "toy")
    script = (
        "import sys, resource; from toy_model import model, ones\n"
        "from tokexport.errors import BundleError; from tokexport.runtimes.bundle.writer import BundleWriter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "try:\n"
        "    with BundleWriter(sys.argv[1]) as writer:\n"
        "        writer.add_model('encoder.onnx', model(a=ones(1_000_000)))\n"
        "except BundleError as error:\n    print(error)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(out)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert "no file larger than 1 MB, and encoder.onnx.data is" in done.stdout, done.stderr
    assert "ulimit -f unlimited" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    verify_hashes(open_bundle(out))


def test_other_write_errors_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with BundleWriter(tmp_path / "out") as writer:
        monkeypatch.setattr(weights_module.HashedFile, "write", fail)
        with pytest.raises(BundleError, match="x cannot be written: Input/output error"):
            writer.add_file("x", b"1")


def test_compressor_has_a_plugin_form_over_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model(a=ones(1000))
    source.graph.node(0).domain = "tokexport"
    forms = types.ModuleType("forms")
    forms.to_plugin = ir.Model.clone  # type: ignore[attr-defined]
    lacking: list[str] = []
    forms.without_plugin = lambda model: lacking  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tokexport.graph_passes.forms", forms)
    with BundleWriter(tmp_path / "out") as writer:
        record = writer.add_graph("encoder", source, ({"x": "x"}, {"y": "y"}), "fp32")
        assert record.forms == {"portable": "encoder.onnx", "plugin": "encoder.plugin.onnx"}
        found = sorted(path.name for path in writer.folder.iterdir())
        assert found == ["encoder.onnx", "encoder.onnx.data", "encoder.plugin.onnx"]
        assert (writer.folder / "encoder.onnx.data").stat().st_size == 4000
        lacking.append("holov")
        record = writer.add_graph("text", source, ({"x": "x"}, {"y": "y"}), "fp32")
        assert record.forms == {"portable": "text.onnx"}
        assert not (writer.folder / "text.plugin.onnx").exists()


def test_graph_of_a_role_gets_its_record(tmp_path: Path) -> None:
    source = toy_bundle.model(toy_bundle.ENCODER)
    roles = ({"pixel_values": "pixel_values"}, {"tokens": "tokens", "sizes": "sizes"})
    with BundleWriter(tmp_path / "out") as writer:
        record = writer.add_graph("encoder", source, roles, "fp32")
        assert record.forms == {"portable": "encoder.onnx", "plugin": "encoder.onnx"}
        assert record.outputs["tokens"].model_dump() == {"name": "tokens", "dtype": "float32", "shape": [1, 2, 1]}
        assert list(record.inputs) == ["pixel_values"]
        other = writer.add_graph("encoder", source, roles, "fp32", variant="b-0.5")
        assert other.forms == {"portable": "encoder.b-0.5.onnx", "plugin": "encoder.b-0.5.onnx"}
        writer.add_graph("prefill", model(a=ones(1000)), ({}, {"y": "y"}), "fp32", data="language.onnx.data")
        assert (writer.folder / "language.onnx.data").stat().st_size == 4000
        with pytest.raises(GraphError, match=r"no 'nothing'.*tokens"):
            writer.add_graph("text", source, ({}, {"x": "nothing"}), "fp32")
