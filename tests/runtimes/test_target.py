import json
from pathlib import Path

import pytest
import toy_bundle
from tokexport.errors import BundleError
from tokexport.runtimes.bundle import target
from tokexport.runtimes.bundle.target import check_target, failed_path
from tokexport.runtimes.bundle.writer import BundleWriter


def test_new_and_empty_folders_are_fine(tmp_path: Path) -> None:
    assert check_target(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert check_target(tmp_path / "link") == tmp_path / "real"


def test_bundle_is_replaced_without_force(tmp_path: Path) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    (out / "engines/orin").mkdir(parents=True)
    (out / "engines/orin/a.plan").touch()
    check_target(out)


def test_files_beside_a_bundle_need_force(tmp_path: Path) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    (out / "notes.txt").touch()
    (out / "processor/more.txt").touch()
    with pytest.raises(BundleError, match=r"notes\.txt and 1 more.*--force"):
        check_target(out)
    check_target(out, force=True)


@pytest.mark.parametrize(
    "manifest", [None, "{", "[]", '{"schema": "1.0"}', '{"schema": "1", "tokexport": "1", "files": 1}']
)
def test_other_folders_need_force(tmp_path: Path, manifest: str | None) -> None:
    out = tmp_path / "mine"
    (out / "engines").mkdir(parents=True)
    (out / "engines/thesis.tex").touch()
    if manifest is not None:
        (out / "manifest.json").write_text(manifest)
    with pytest.raises(BundleError, match=r"engines/thesis\.tex.*--force"):
        check_target(out)
    check_target(out, force=True)


def test_bundle_of_a_newer_version_is_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "new"
    out.mkdir()
    (out / "manifest.json").write_text(json.dumps({"schema": "9.0", "tokexport": "9", "files": {"a": 1}}))
    (out / "a").touch()
    check_target(out)


@pytest.mark.parametrize("guarded", ["cwd", "above", "root", "home"])
@pytest.mark.parametrize("force", [False, True])
def test_guarded_folders_are_never_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: str, force: bool
) -> None:
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    out = {"cwd": Path(), "above": tmp_path / "a", "root": Path("/"), "home": tmp_path / "home"}[guarded]
    with pytest.raises(BundleError, match="holds more than a bundle"):
        check_target(out, force=force)


def test_repository_is_never_accepted(tmp_path: Path) -> None:
    (tmp_path / "repo/.git").mkdir(parents=True)
    with pytest.raises(BundleError, match="git repository"):
        check_target(tmp_path / "repo", force=True)


def test_parent_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"does not exist.*mkdir -p"):
        check_target(tmp_path / "a/b")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is not a folder"):
        check_target(tmp_path / "file/b")
    with pytest.raises(BundleError, match="is a file"):
        check_target(tmp_path / "file")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write")
def test_parent_must_be_writable() -> None:
    with pytest.raises(BundleError, match="cannot write there"):
        check_target("/proc/bundle")


def test_failed_result_must_have_a_place_too(tmp_path: Path) -> None:
    out = tmp_path / "toy-0.5"
    assert failed_path(out) == tmp_path / "toy-0.5.failed"
    failed_path(out).mkdir()
    (failed_path(out) / "thesis.tex").touch()
    with pytest.raises(BundleError, match=r"thesis\.tex"):
        check_target(out)


@pytest.mark.parametrize("there", [True, False])
def test_failed_result_is_not_written_through_a_link(tmp_path: Path, there: bool) -> None:
    other = toy_bundle.write(tmp_path / "other") if there else tmp_path / "nowhere"
    failed_path(tmp_path / "toy").symlink_to(other)
    for force in (False, True):
        with pytest.raises(BundleError, match=r"symbolic link.*rm .*toy\.failed"):
            check_target(tmp_path / "toy", force=force)


def test_failed_result_replaces_no_guarded_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.failed/inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "toy.failed/inner")
    with pytest.raises(BundleError, match=r"holds more than a bundle.*toy\.failed"):
        check_target(tmp_path / "toy", force=True)


@pytest.mark.parametrize("name", ["mine", "processor/mine", "engines", ".tokexport-commit", ".tokexport-build-1"])
def test_links_in_a_bundle_need_force_and_lead_nowhere(tmp_path: Path, name: str) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    (out / name).symlink_to(tmp_path / "mine")
    with pytest.raises(BundleError, match="--force"):
        check_target(out)
    with BundleWriter(out, force=True) as writer:
        writer.commit(toy_bundle.fill(writer))
    assert (tmp_path / "mine/notes.txt").exists()
    assert not (out / name).is_symlink()


def test_only_hidden_folders_that_tokexport_makes_are_its_own(tmp_path: Path) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    (out / ".tokexport-build-1234").mkdir()
    (out / ".tokexport-build-1234/half").touch()
    check_target(out)
    (out / ".tokexport-notes").mkdir()
    (out / ".tokexport-notes/mine").touch()
    with pytest.raises(BundleError, match=r"\.tokexport-notes/mine.*--force"):
        check_target(out)


def test_mount_point_is_written_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.os.path, "ismount", lambda path: path == tmp_path / "mount")
    assert target.staging_parent(tmp_path / "mount") == tmp_path / "mount"
    assert target.staging_parent(tmp_path / "other") == tmp_path


def test_the_command_for_a_missing_parent_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"mkdir -p '.*/two words'"):
        check_target(tmp_path / "two words/b")


def test_a_repository_further_down_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "mine/inner/.git").mkdir(parents=True)
    (tmp_path / "mine/inner/.git/config").touch()
    with pytest.raises(BundleError, match=r"git repository: inner/\.git/config"):
        check_target(tmp_path / "mine", force=True)


@pytest.mark.parametrize("name", ["engines/thesis.tex", "engines/orin/thesis.tex", "engines/a/b/c.json"])
def test_a_file_among_engines_that_is_none_needs_force(tmp_path: Path, name: str) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    (out / name).parent.mkdir(parents=True)
    (out / name).touch()
    with pytest.raises(BundleError, match=r"did not write: engines/"):
        check_target(out)


def test_what_a_killed_build_left_is_ours(tmp_path: Path) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    (out / "engines/orin/.tokexport-1").mkdir(parents=True)
    (out / "engines/orin/.tokexport-1/a.onnx").touch()
    check_target(out)


def test_a_link_to_a_folder_is_a_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/data").symlink_to("../data")
    with pytest.raises(BundleError, match="did not write: data"):
        check_target(tmp_path / "mine")
