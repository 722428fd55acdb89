import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tokexport.errors import BundleError
from tokexport.runtimes.bundle import atomic_replace as swap
from tokexport.runtimes.bundle import journal
from tokexport.runtimes.bundle.atomic_replace import exchange, replace, staging
from tokexport.runtimes.bundle.manifest import PENDING
from tokexport.runtimes.bundle.recovery import recover
from tokexport.runtimes.bundle.target import check_target


def fill(folder: Path, version: str, *extra: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = ["a", "sub/b", *extra]
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(version)
    listed = {name: {"size": len(version), "sha256": "0" * 64} for name in files}
    manifest = {
        "schema": "1.0",
        "tokexport": version,
        "source": {"kind": "builtin", "name": "toy"},
        "files": listed,
        "variants": [{"name": "toy", "compression": [], "graphs": {}}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def content(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


NEW = {"a": "new", "sub/b": "new", "only/new": "new"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    # Many at the top: the manifest must go first, whatever order the file system lists them in.
    return fill(tmp_path / "out", "old", "only/old", "deep/er/old", *(f"old{i}" for i in range(8)))


def has_exchange(tmp_path: Path) -> bool:
    (tmp_path / "p").mkdir()
    (tmp_path / "q").mkdir()
    return exchange(tmp_path / "p", tmp_path / "q")


def test_exchange_is_one_step(tmp_path: Path) -> None:
    if not has_exchange(tmp_path):
        pytest.skip("this file system cannot exchange folders")
    one, two = fill(tmp_path / "one", "1"), fill(tmp_path / "two", "2")
    assert exchange(one, two)
    assert [(one / "a").read_text(), (two / "a").read_text()] == ["2", "1"]


def test_exchange_that_fails_for_another_reason_is_an_error(tmp_path: Path) -> None:
    if not has_exchange(tmp_path):
        pytest.skip("this file system cannot exchange folders")
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "p", tmp_path / "none")


@pytest.mark.parametrize("way", ["exchange", "hand over", "copy"])
@pytest.mark.parametrize("before", ["missing", "empty", "old"])
def test_every_way_leaves_the_new_bundle_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, before: str
) -> None:
    out = tmp_path / "out"
    if before == "empty":
        out.mkdir()
    if before == "old":
        fill(out, "old", "only/old", "deep/er/old")
    if way != "exchange":
        monkeypatch.setattr(swap, "exchange", lambda a, b: False)
    if way == "copy":
        rename = Path.rename

        def other_mount(self: Path, target: Path) -> Path:
            if self.parent == tmp_path and Path(target).is_relative_to(out):
                raise OSError(errno.EXDEV, "other mount")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", other_mount)
    with staging(out) as folder:
        replace(fill(folder, "new", "only/new"), out)
    assert content(out) == NEW
    assert sorted(path.name for path in out.iterdir()) == ["a", "manifest.json", "only", "sub"]
    assert '"new"' in (out / "manifest.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_inside_a_mount_point(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "staging_parent", lambda path: path)
    monkeypatch.setattr(swap, "exchange", lambda a, b: False)
    with staging(out) as folder:
        assert folder.parent == out
        replace(fill(folder, "new", "only/new"), out)
    assert content(out) == NEW


# The steps that change what is on the disk, in their order: an interruption before each of them.
@pytest.mark.parametrize("mended_by", [recover, check_target])
@pytest.mark.parametrize("step", range(48))
def test_interrupted_anywhere_it_is_the_old_bundle_or_the_new_one(
    out: Path, monkeypatch: pytest.MonkeyPatch, step: int, mended_by: Callable[[Path], object]
) -> None:
    old = content(out)
    monkeypatch.setattr(swap, "exchange", lambda a, b: False)
    done = 0

    class Killed(BaseException):
        pass

    def count() -> None:
        nonlocal done
        if done == step:
            raise Killed
        done += 1

    def counted(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def wrapper(*args: object, **kwargs: object) -> object:
            count()
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)

    folder = fill(out.parent / ".out.staged", "new", "only/new")
    with monkeypatch.context():
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            counted(Path, name)
        counted(swap.shutil, "rmtree")
        try:
            replace(folder, out)
        except Killed:
            pass
        else:
            assert 25 < done <= step
        monkeypatch.undo()
    # What a reader finds that knows nothing of `recover`.
    if (out / "manifest.json").exists():
        is_new = '"new"' in (out / "manifest.json").read_text()
        found = {name: text for name, text in content(out).items() if not name.startswith(PENDING)}
        assert found == (NEW if is_new else old)
    handed_over = (out / PENDING).exists()
    # `tokexport verify` does the one, the next export the other, which nobody has to tell --force.
    mended_by(out)
    assert content(out) in ((old,) if folder.exists() and not handed_over else (NEW,))
    assert (out / "manifest.json").exists()
    assert not (out / PENDING).exists()


def test_recover_without_anything_to_do(out: Path) -> None:
    assert not recover(out)
    assert not recover(out / "none")


def test_recover_that_cannot_write_says_so(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.note(out, fill(out / PENDING, "new"))

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(BundleError, match=r"in the middle of being replaced.*Permission denied"):
        recover(out)


def test_staging_is_removed_whatever_happens(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "out") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["pipe", "link", "file"])
def test_what_only_has_the_name_of_a_staging_folder_is_left_alone(tmp_path: Path, kind: str) -> None:
    path, elsewhere = tmp_path / ".out.tokexport-1", fill(tmp_path / "elsewhere", "mine")
    {"pipe": os.mkfifo, "link": lambda path: path.symlink_to(elsewhere), "file": Path.touch}[kind](path)
    for old in (path, elsewhere):
        os.utime(old, (time.time() - 100,) * 2)
    with staging(tmp_path / "out"):
        assert os.path.lexists(path)
        assert content(elsewhere) == {"a": "mine", "sub/b": "mine"}


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_builds_is_not(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tokexport.runtimes.bundle.atomic_replace import staging\n"
        "with staging(Path(sys.argv[1])) as folder:\n    print(folder, flush=True); time.sleep(60)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = [Path(process.stdout.readline().strip()) for process in started if process.stdout]
    try:
        started[0].kill()
        started[0].wait()
        assert all(folder.is_dir() for folder in folders)
        with staging(tmp_path / "out"):
            assert folders[0].is_dir(), "it may just have been made"
        for folder in folders:
            os.utime(folder, (time.time() - 100,) * 2)
        with staging(tmp_path / "out"):
            assert not folders[0].exists()
            assert folders[1].is_dir()
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
