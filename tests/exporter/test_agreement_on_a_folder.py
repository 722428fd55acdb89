"""Agreement without labels: which slot represents a position, how near it is, and which files are taken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokexport.errors import GraphError, RequestError
from tokexport.exporter.evaluate.agreement import cosine, of_answers, read_folder, slots, words_alike
from tokexport.exporter.evaluate.answers import Encoded
from tokexport.exporter.evaluate.judges import Folder
from tokexport.exporter.opening import open_source
from tokexport.graph_passes.seams.seam import Seam
from tokexport.runtimes.bundle.manifest import PreprocessRecord

LINE = Seam("s", "t", 6, 2, "float32", 1, 0, None)
SQUARE = Seam("s", "t", 9, 2, "float32", 1, 0, (3, 3))
TALL = Seam("s", "t", 6, 2, "float32", 1, 1, None)


def encoded(tokens: Any, kept: list[int], assignment: list[int]) -> Encoded:
    sizes = np.ones((1, len(kept)), np.float32)
    return Encoded(
        np.array([tokens], np.float32), np.array([kept]), sizes, np.array([assignment]), np.zeros(1, np.int64)
    )


def test_content_goes_by_assignment_and_what_is_lost_to_the_nearest_kept_position():
    found = slots(encoded(np.zeros((2, 2)), [1, 4], [1, 0, -1, -1, 1, -1]), LINE)
    # 0 went into slot 1 although position 1 is nearer; 2 is nearer to 1, 3 and 5 to 4.
    assert found.tolist() == [[1, 0, 0, 1, 1, 1]]


def test_on_a_grid_near_means_near_in_the_picture_and_ties_go_to_the_lowest_slot():
    found = slots(encoded(np.zeros((2, 2)), [2, 3], [-1, -1, 0, 1, -1, -1, -1, -1, -1]), SQUARE)
    # 1 is as far from 2 as 0 is from 3: one step; 4 is one step below 1, one beside 3; 5 is one below 2.
    assert found.tolist() == [[1, 0, 0, 1, 1, 0, 1, 1, 0]]


def test_cosine_is_the_mean_over_positions_whatever_the_lengths():
    full = np.array([[[1, 0], [0, 2], [3, 0], [0, 1], [1, 1], [-1, 0]]], np.float32)
    near = encoded([[5, 0], [0, 1]], [0, 3], [0, 1, 0, 1, 0, 0])
    np.testing.assert_allclose(cosine(full, near, LINE), [(1 + 1 + 1 + 1 + 0.5**0.5 - 1) / 6], rtol=1e-6)


def test_prefix_tokens_are_not_compared():
    full = np.ones((1, 7, 2), np.float32)
    full[:, 0] = [1, -1]
    near = encoded([[1, -1], [2, 2]], [2], [0] * 6)
    np.testing.assert_allclose(cosine(full, near, TALL), [1], rtol=1e-6)


def test_an_output_without_a_row_for_each_token_is_refused():
    with pytest.raises(GraphError, match="not a row for each of the 6 tokens"):
        cosine(np.ones((1, 3, 2), np.float32), encoded([[1, 1]], [0], [0] * 6), LINE)


def test_answers_agree_by_their_likeliest_class_or_by_their_direction():
    full, fewer = np.array([[1, 3, 2], [5, 0, 0]], np.float32), np.array([[0, 9, 1], [1, 2, 0]], np.float32)
    assert of_answers(full, fewer, "logits").tolist() == [1, 0]
    cosines = [29 / (14**0.5 * 82**0.5), 1 / 5**0.5]
    np.testing.assert_allclose(of_answers(full, fewer, "embedding"), cosines, rtol=1e-6)
    with pytest.raises(GraphError, match="NaN or inf as its logits"):
        of_answers(full, fewer * np.nan, "logits")


def test_an_output_that_is_not_finite_agrees_with_nothing():
    full = np.ones((1, 6, 2), np.float32)
    with pytest.raises(GraphError, match="NaN or inf for 1 of 1 inputs"):
        cosine(full, encoded([[np.nan, 1]], [0], [0] * 6), LINE)
    full[0, 3, 1] = np.inf
    with pytest.raises(GraphError, match="NaN or inf"):
        cosine(full, encoded([[1, 1]], [0], [0] * 6), LINE)


# --- the folder


def source(images: bool = True, inputs: int = 1) -> Any:
    record = PreprocessRecord(size=(4, 4), resample="nearest", mean=(0, 0, 0), std=(1, 1, 1)) if images else None
    given = {f"x{i}": np.zeros((1, 3, 4, 4), np.float32) for i in range(inputs)}
    return SimpleNamespace(name="m", preprocess=record, encoder=SimpleNamespace(inputs=given))


def picture(path: Path, value: int) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)


@pytest.mark.parametrize(
    ("said", "whole", "alike"),
    [
        ("one two three four", "one two three four", 1),
        ("one too three four", "one two three four", 0.75),
        ("one three four", "one two three four", 0.75),
        ("zero one two three four", "one two three four", 0.75),
        ("two one", "one two", 0),
        ("a a a a a a a a a", "one two", 0),
        ("", "one two", 0),
        ("", "", 1),
        ("one", "", 0),
    ],
)
def test_a_transcript_agrees_by_words(said: str, whole: str, alike: float) -> None:
    assert words_alike(said, whole) == pytest.approx(alike)


@pytest.mark.parametrize(("model", "agreement"), [("tiny-asr", 0.5), ("tiny-vlm", 0)])
def test_only_transcripts_agree_in_part(tmp_path, model: str, agreement: float, monkeypatch) -> None:
    bench = SimpleNamespace(source=open_source(model, parts="all"), base=None)
    monkeypatch.setattr("tokexport.exporter.evaluate.judges.read_folder", lambda *of: ([None], {}, []))
    judge = Folder(bench, tmp_path, None if model == "tiny-asr" else "what ?")
    assert judge._alike("one two", "one six") == agreement
    assert ("word error rate" in judge.metric) == (judge.facts.get("agreement") == "words") == (model == "tiny-asr")


def test_files_come_in_the_order_of_their_names_and_others_are_named(tmp_path):
    picture(tmp_path / "b.png", 255)
    picture(tmp_path / "a.PNG", 51)
    np.save(tmp_path / "c.npy", np.full((1, 3, 4, 4), 7, np.float32))
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    inputs, facts, notes = read_folder(tmp_path, source())
    assert [float(array[0, 0, 0, 0]) for array in inputs] == [pytest.approx(0.2), 1, 7]
    assert facts["inputs"] == 3 and notes == ["1 files of other kinds were left out: readme.txt"]
    picture(tmp_path / "b.png", 254)
    assert read_folder(tmp_path, source())[1]["sha256"] != facts["sha256"]


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (lambda folder: folder.rmdir(), source(), "no folder"),
        (lambda folder: None, source(), r"nothing in the folder that m takes: it takes .png"),
        (lambda folder: picture(folder / "a.png", 1), source(images=False), "how a picture, a video or a sound"),
        (lambda folder: (folder / "a.png").write_bytes(b"x"), source(), "a.png cannot be read as an image"),
        (lambda folder: (folder / "a.npy").write_bytes(b"x"), source(), "a.npy cannot be read as an array"),
        (lambda folder: np.save(folder / "a.npy", np.zeros(3)), source(), r"a.npy holds float64 \[3\]"),
        (lambda folder: np.save(folder / "a.npy", np.full((1, 3, 4, 4), np.nan)), source(), "a.npy holds NaN or inf"),
        (lambda folder: picture(folder / "a.png", 1), source(inputs=2), "takes x0, x1"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_its_reason(tmp_path, make, given, message):
    folder = tmp_path / "mine"
    folder.mkdir()
    make(folder)
    with pytest.raises(RequestError, match=message):
        read_folder(folder, given)
