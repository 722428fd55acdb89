"""Figures are kept as they are made, and only what is a sweep's own file is read."""

from __future__ import annotations

import json

import pytest
from tokexport.errors import RequestError
from tokexport.exporter.sweeps.cells import FILE, Cell, Cells


def cells(made: list[int], count: int = 5) -> list[Cell]:
    def of(number: int) -> Cell:
        return Cell({"what": "answers", "keep": number}, lambda: made.append(number) or {"accuracy": number / 10})

    return [of(number) for number in range(count)]


def stop_after(count: int):
    def done(cell: Cell) -> None:
        if cell.key["keep"] + 1 == count:
            raise KeyboardInterrupt

    return done


def test_what_was_stopped_goes_on_with_the_rest_only(tmp_path):
    made: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path).complete(cells(made), stop_after(3))
    assert made == [0, 1, 2]
    again, seen = Cells(tmp_path), []
    assert [cell in again for cell in cells([])] == [True, True, True, False, False]
    again.complete(cells(made), lambda cell: seen.append(cell.key["keep"]))
    assert made == seen == [0, 1, 2, 3, 4]
    assert [Cells(tmp_path)[cell] for cell in cells([])] == [{"accuracy": number / 10} for number in range(5)]


def test_a_figure_of_another_request_is_not_taken(tmp_path):
    made: list[int] = []
    Cells(tmp_path).complete(cells(made, 1), lambda cell: None)
    other = Cell({"what": "answers", "keep": 0, "questions": 7}, lambda: {"accuracy": 1.0})
    assert cells([], 1)[0] in Cells(tmp_path) and other not in Cells(tmp_path)


def test_a_line_cut_short_is_computed_again(tmp_path):
    made: list[int] = []
    Cells(tmp_path).complete(cells(made, 3), lambda cell: None)
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text[:-20])
    Cells(tmp_path).complete(cells(made, 3), lambda cell: None)
    assert made == [0, 1, 2, 2] and (tmp_path / FILE).read_text() == text


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        json.dumps({"key": {}}),
        json.dumps({"key": {}, "value": 3}),
        json.dumps({"key": 1, "value": {}}),
    ],
)
def test_a_file_that_is_not_a_sweeps_is_refused_and_left_alone(tmp_path, line):
    content = json.dumps({"key": {"keep": 1}, "value": {}}) + "\n" + line + "\n"
    (tmp_path / FILE).write_text(content)
    with pytest.raises(RequestError, match=r"damaged or not of a sweep \(line 2"):
        Cells(tmp_path)
    assert (tmp_path / FILE).read_text() == content


@pytest.mark.parametrize("name", [FILE, "sweep.json", "sweep.png"])
@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_written_through_a_link(tmp_path, name, there):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    if there:
        elsewhere.write_text("")
    (out / name).symlink_to(elsewhere)
    with pytest.raises(RequestError, match=rf"{name} is a symbolic link.*rm .*out/{name}"):
        Cells(out).complete(cells([]), lambda cell: None)
    assert elsewhere.read_text() == "" if there else not elsewhere.exists()


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="damaged"):
        Cells(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(RequestError, match="cannot be made"):
        Cells(tmp_path / "out")
