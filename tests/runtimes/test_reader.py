import json
from pathlib import Path
from typing import Any

import pytest
import toy_bundle
from tokexport.errors import BundleError, RequestError
from tokexport.runtimes.bundle import journal
from tokexport.runtimes.bundle.reader import open_bundle, verify_hashes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy_bundle.write(tmp_path / "toy")


def change(folder: Path, **keys: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_opens_what_the_writer_wrote(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.manifest.source.name == "toy"
    assert verify_hashes(bundle) == 5
    assert bundle.model_path("encoder") == folder / "encoder.onnx"
    assert bundle.variant("toy-0.5") is bundle.variant()
    assert bundle.file("processor/words.json").is_file()


def test_steps_name_the_files(folder: Path) -> None:
    seen: list[str] = []
    verify_hashes(open_bundle(folder), seen.append)
    assert seen[0] == "decode.onnx"
    assert len(seen) == 5


def test_wrong_content_of_the_right_size_is_found_by_hash(folder: Path) -> None:
    path = folder / "prefill.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match=r"content of prefill\.onnx has changed"):
        verify_hashes(bundle)


@pytest.mark.parametrize("difference", [-1, 1])
def test_wrong_size_is_found_on_opening(folder: Path, difference: int) -> None:
    path = folder / "prefill.onnx"
    content = path.read_bytes()
    path.write_bytes((content + b"+")[: len(content) + difference])
    message = rf"prefill\.onnx has {len(content) + difference} bytes, not {len(content)}"
    with pytest.raises(BundleError, match=message):
        open_bundle(folder)


@pytest.mark.parametrize("begun_here", [True, False])
def test_interrupted_replacement_is_named_and_reading_writes_nothing(folder: Path, begun_here: bool) -> None:
    pending = toy_bundle.write(folder.parent / "new", size_bias=False).rename(folder / ".tokexport-commit")
    if begun_here:
        journal.note(folder, pending)
    before = {path: path.stat().st_ino for path in folder.rglob("*")}
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == before
    if begun_here:
        assert f"tokexport verify {folder}" in caught.value.fix
    else:
        assert f"rm -r {pending}" in caught.value.fix and caught.value.where == str(pending)


def test_missing_file_is_named(folder: Path) -> None:
    (folder / "processor/words.json").unlink()
    with pytest.raises(BundleError, match=r"processor/words\.json is missing"):
        open_bundle(folder)


def test_file_of_a_graph_must_be_listed(folder: Path) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    del files["decode.onnx"]
    change(folder, files=files)
    with pytest.raises(BundleError, match=r"uses decode\.onnx but does not list it"):
        open_bundle(folder)


def test_truncated_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match="damaged or cut short"):
        open_bundle(folder)


def test_newer_major_version_is_refused_with_the_command(folder: Path) -> None:
    change(folder, schema="3.0")
    with pytest.raises(BundleError, match=r"schema 3\.0, this tokexport reads 1\.x and 2\.x") as caught:
        open_bundle(folder)
    assert caught.value.fix == "pip install -U tokexport"


@pytest.mark.parametrize("major", [1, 2])
def test_newer_minor_version_is_read_with_its_unknown_keys(tmp_path: Path, major: int) -> None:
    folder = toy_bundle.write(tmp_path / "toy", schema=f"{major}.0")
    change(folder, schema=f"{major}.7", lately="added")
    assert open_bundle(folder).manifest.schema_ == f"{major}.7"
    change(folder, schema=f"{major}.0")
    with pytest.raises(BundleError, match="unknown key 'lately'"):
        open_bundle(folder)


def test_unknown_key_is_refused_by_name(folder: Path) -> None:
    change(folder, lately="added")
    with pytest.raises(BundleError, match="unknown key 'lately'"):
        open_bundle(folder)


@pytest.mark.parametrize("schema", [None, 1, "1", "one.two", "1.0.0", "-1.0", "9" * 5000 + ".0", {"a": "b" * 5000}])
def test_schema_must_be_a_version(folder: Path, schema: Any) -> None:
    change(folder, schema=schema)
    with pytest.raises(BundleError, match=r"schema.*and a bundle has a version such as") as caught:
        open_bundle(folder)
    assert len(str(caught.value)) < 2000


def test_path_that_leaves_the_folder_is_refused(folder: Path) -> None:
    outside = folder.parent / "secret"
    outside.write_bytes(b"")
    change(folder, files={"../secret": {"size": 0, "sha256": "0" * 64}})
    with pytest.raises(BundleError, match="leaves the bundle"):
        open_bundle(folder)


@pytest.mark.parametrize("linked", ["encoder.onnx", "processor"])
def test_links_are_refused(folder: Path, linked: str) -> None:
    moved = folder.parent / "moved"
    (folder / linked).rename(moved)
    (folder / linked).symlink_to(moved)
    with pytest.raises(BundleError, match="symbolic link") as caught:
        open_bundle(folder)
    assert "cp -rL" in caught.value.fix


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match="no bundle"):
        open_bundle(tmp_path)
    file = tmp_path / "model.onnx"
    file.touch()
    with pytest.raises(BundleError, match="is a file"):
        open_bundle(file)


def test_names_that_are_not_there(folder: Path) -> None:
    bundle = open_bundle(folder)
    with pytest.raises(RequestError, match="Did you mean encoder"):
        bundle.model_path("encodr")
    with pytest.raises(RequestError, match=r"no graph 'text'.*--parts all"):
        bundle.model_path("text")
    with pytest.raises(RequestError, match=r"no plugin form of encoder.*portable"):
        bundle.model_path("encoder", "plugin")
    with pytest.raises(RequestError, match=r"no variant 'b'.*toy-0\.5"):
        bundle.variant("b")
    with pytest.raises(BundleError, match="no file 'x'"):
        bundle.file("x")


def test_files_that_the_manifest_does_not_list_are_ignored(folder: Path) -> None:
    (folder / "engines").mkdir()
    (folder / "engines/link").symlink_to("/etc/hosts")
    open_bundle(folder)
