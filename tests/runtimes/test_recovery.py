"""A pending commit can be of anybody's making: it is finished only where this user began it here, and it is whole."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import toy_bundle
from tokexport.errors import BundleError
from tokexport.exporter.proof.verify import verify
from tokexport.runtimes.bundle import atomic_replace as swap
from tokexport.runtimes.bundle import journal
from tokexport.runtimes.bundle.manifest import PENDING
from tokexport.runtimes.bundle.reader import open_bundle, verify_hashes
from tokexport.runtimes.bundle.recovery import recover
from tokexport.runtimes.bundle.target import check_target
from tokexport.runtimes.bundle.writer import BundleWriter


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy_bundle.write(tmp_path / "toy")


@pytest.fixture
def pending(bundle: Path) -> Path:
    """A newer bundle, without the size bias, inside the older one; nobody noted that it was begun."""
    return toy_bundle.write(bundle.parent / "new", size_bias=False).rename(bundle / PENDING)


def snapshot(folder: Path) -> dict[str, object]:
    """Everything below a folder: links by where they lead, files by content."""
    found = {}
    for path in folder.rglob("*"):
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[path.relative_to(folder).as_posix()] = content
    return found


def is_new(bundle: Path) -> bool:
    opened = open_bundle(bundle)
    assert verify_hashes(opened) == 5
    return not opened.manifest.variants[0].compression[0].size_bias


def renamed(pending: Path, old: str, new: str) -> None:
    manifest = pending / "manifest.json"
    manifest.write_text(manifest.read_text().replace(json.dumps(old), json.dumps(new)))


def export(bundle: Path) -> None:
    with BundleWriter(bundle) as writer:
        writer.commit(toy_bundle.fill(writer))


@pytest.mark.parametrize("use", [open_bundle, recover, verify, check_target, export])
@pytest.mark.parametrize("lost", [True, False])
def test_what_somebody_else_began_is_refused_and_stays(
    bundle: Path, pending: Path, use: Callable[[Path], object], lost: bool
) -> None:
    if lost:
        (bundle / "manifest.json").unlink()
    before = snapshot(bundle.parent)
    with pytest.raises(BundleError, match="not begun by you on this machine") as caught:
        use(bundle)
    assert snapshot(bundle.parent) == before
    assert "--force" in caught.value.fix
    assert ("rm -r" in caught.value.fix) is not lost


def test_both_cures_work(bundle: Path, pending: Path) -> None:
    copy = shutil.copytree(bundle, bundle.parent / "copy")
    shutil.rmtree(pending)
    assert not is_new(bundle)
    with BundleWriter(copy, force=True) as writer:
        assert (copy / PENDING).is_dir(), "nothing goes before the new bundle is there"
        writer.commit(toy_bundle.fill(writer, size_bias=False))
    assert is_new(copy)
    assert not (copy / PENDING).exists()


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("damaged", [True, False])
def test_force_replaces_what_is_pending(
    bundle: Path, pending: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool, damaged: bool
) -> None:
    if damaged:
        journal.note(bundle, pending)
        (pending / "embed.onnx").write_bytes(b"")
        with pytest.raises(BundleError, match=r"embed\.onnx has 0 bytes.*--force"):
            check_target(bundle)
    if not exchanges:
        monkeypatch.setattr(swap, "exchange", lambda a, b: False)
    with BundleWriter(bundle, force=True) as writer:
        writer.commit(toy_bundle.fill(writer, size_bias=False))
    assert is_new(bundle)
    assert not (bundle / PENDING).exists()


def test_a_link_is_no_pending_folder(bundle: Path) -> None:
    other = toy_bundle.write(bundle.parent / "other", size_bias=False)
    journal.note(bundle, other)
    (bundle / PENDING).symlink_to(other)
    before = snapshot(bundle.parent)
    for use in (open_bundle, recover, check_target):
        with pytest.raises(BundleError, match="not begun by you"):
            use(bundle)
    assert snapshot(bundle.parent) == before
    with BundleWriter(bundle, force=True) as writer:
        writer.commit(toy_bundle.fill(writer))
    assert {f"other/{name}" for name in snapshot(other)} <= before.keys()
    assert len(snapshot(other)) == 8


def test_the_note_of_one_bundle_is_none_of_its_copy(
    bundle: Path, pending: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    journal.note(bundle, pending)
    copy = shutil.copytree(bundle, bundle.parent / "copy")
    with pytest.raises(BundleError, match="not begun by you"):
        recover(copy)
    assert recover(bundle)
    assert is_new(bundle)
    assert not list((tmp_path / "state/tokexport/replacements").iterdir())


@pytest.mark.parametrize(
    "kind", ["climbs", "absolute", "ours", "manifest", "size", "missing", "link", "linked folder", "key", "cut", "pipe"]
)
def test_what_is_pending_is_checked_as_strictly_as_a_manifest(bundle: Path, pending: Path, kind: str) -> None:
    outside = bundle.parent / "outside"
    shutil.copytree(pending / "processor", outside)
    names = {
        "climbs": "../outside/words.json",
        "absolute": f"{outside}/words.json",
        "ours": ".tokexport-x/words.json",
        "manifest": "manifest.json",
    }
    if kind in names:
        renamed(pending, "processor/words.json", names[kind])
    elif kind == "size":
        (pending / "embed.onnx").write_bytes(b"")
    elif kind == "missing":
        (pending / "embed.onnx").unlink()
        (bundle / "embed.onnx").unlink()
    elif kind == "link":
        (pending / "processor/words.json").unlink()
        (pending / "processor/words.json").symlink_to(outside / "words.json")
    elif kind == "linked folder":
        shutil.rmtree(pending / "processor")
        (pending / "processor").symlink_to(outside)
    elif kind == "key":
        renamed(pending, "parity", "colour")
    elif kind == "cut":
        (pending / "manifest.json").write_bytes((pending / "manifest.json").read_bytes()[:100])
    elif kind == "pipe":
        (pending / "manifest.json").unlink()
        os.mkfifo(pending / "manifest.json")
    if kind == "ours":
        (pending / ".tokexport-x").mkdir()
        (pending / "processor/words.json").rename(pending / ".tokexport-x/words.json")
        (bundle / ".tokexport-x").symlink_to(outside)
    journal.note(bundle, pending)
    before = {path: path.lstat().st_ino for path in bundle.parent.rglob("*")}
    with pytest.raises(BundleError, match="by one that is damaged") as caught:
        recover(bundle)
    assert {path: path.lstat().st_ino for path in bundle.parent.rglob("*")} == before
    assert f"rm -r {pending}" in caught.value.fix


@pytest.mark.parametrize("link", ["processor", ".tokexport-x", "words/.tokexport-x", "embed.onnx"])
def test_links_in_the_older_bundle_are_deleted_and_not_followed(bundle: Path, pending: Path, link: str) -> None:
    outside = bundle.parent / "outside"
    outside.mkdir()
    (outside / "words.json").write_text("mine")
    path = bundle / link
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    journal.note(bundle, pending)
    recover(bundle)
    assert is_new(bundle)
    assert snapshot(outside) == {"words.json": b"mine"}
    assert not [name for name, content in snapshot(bundle).items() if isinstance(content, Path)]


def test_without_a_state_folder_the_older_bundle_stays(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(swap, "exchange", lambda a, b: False)
    before = snapshot(bundle)
    with pytest.raises(BundleError, match="XDG_STATE_HOME"), BundleWriter(bundle) as writer:
        writer.commit(toy_bundle.fill(writer))
    assert snapshot(bundle) == before


def test_killed_replacement_is_finished_by_verify(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed behind its first file, when the older manifest is gone."""

    class Killed(BaseException):
        pass

    def kill(self: Path, target: Path) -> Path:
        self.rename(target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(swap, "exchange", lambda a, b: False)
        patch.setattr(Path, "replace", kill)
        with pytest.raises(Killed), BundleWriter(bundle) as writer:
            writer.commit(toy_bundle.fill(writer, size_bias=False))
    assert not (bundle / "manifest.json").exists()
    with pytest.raises(BundleError, match=f"tokexport verify {bundle}"):
        open_bundle(bundle)
    # The toy has no probes: it is finished, and then found to be without proof.
    with pytest.raises(BundleError, match="proof"):
        verify(bundle)
    assert is_new(bundle)
