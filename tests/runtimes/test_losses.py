from pathlib import Path

import pytest
import toy_bundle
from tokexport.errors import BundleError
from tokexport.runtimes.bundle.losses import name_deleted, refuse_loss


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/weights").write_text("1")
    return tmp_path / "source"


def test_nothing_is_lost_where_nothing_is_replaced(tmp_path: Path, source: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    for replaced in (tmp_path / "new", tmp_path / "mine", source / "new"):
        refuse_loss(replaced, [source, tmp_path / "absent"])


def test_a_file_that_a_source_folder_only_links_to(tmp_path: Path, source: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").touch()
    (source / "config.json").symlink_to("../mine/config.json")
    with pytest.raises(BundleError, match=r"made of: .*source/config\.json"):
        refuse_loss(tmp_path / "mine", [source])


def test_in_a_source_folder_a_bundle_may_be_replaced_and_nothing_else(source: Path) -> None:
    toy_bundle.write(source / "toy")
    refuse_loss(source / "toy", [source])
    (source / "mine").mkdir()
    (source / "mine/tokenizer.json").touch()
    for replaced in ("mine", "weights"):
        with pytest.raises(BundleError, match=f"made of: .*source/{replaced}"):
            refuse_loss(source / replaced, [source])


def test_a_link_in_place_of_the_folder_is_what_it_leads_to(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out").symlink_to("source")
    with pytest.raises(BundleError, match="made of"):
        refuse_loss(tmp_path / "out", [source / "weights"])


def test_links_in_a_circle_end(tmp_path: Path, source: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refuse_loss(source, [tmp_path / "a"])


@pytest.mark.parametrize(
    ("count", "most", "said"),
    [(1, 10, "deletes 1 file that"), (3, 10, "write: 0, 1, 2\n"), (3, 2, "0, 1 and 1 more\n"), (3, None, "0, 1, 2\n")],
)
def test_names_are_said_on_stderr(capsys: pytest.CaptureFixture[str], count: int, most: int | None, said: str) -> None:
    name_deleted(Path("mine"), [str(i) for i in range(count)], most)
    out, err = capsys.readouterr()
    assert not out and said in err
