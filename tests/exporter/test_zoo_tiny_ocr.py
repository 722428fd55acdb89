"""tiny-ocr: what is drawn is what is asked, patches show what they are said to show, the weights read."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tokexport.exporter.zoo.tiny_ocr.glyphs import DIGITS, LETTERS, inked, line
from tokexport.exporter.zoo.tiny_ocr.pictures import KINDS, Picture, picture
from tokexport.exporter.zoo.tiny_ocr.text import VOCABULARY, detokenize, prompt, tokenize
from tokexport.exporter.zoo.tiny_vlm.scenes import RGB, SIZE
from tokexport.exporter.zoo.tiny_vlm.text import COLOURS

if TYPE_CHECKING:
    from tokexport.exporter.zoo.tiny_ocr.model import TinyOCR


@pytest.fixture(scope="module")
def drawn() -> list[Picture]:
    return [picture(np.random.default_rng(seed)) for seed in range(30)]


def test_importing_the_zoo_imports_no_torch() -> None:
    code = "import sys, tokexport.exporter.zoo.tiny_ocr.pictures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_seed_is_a_picture() -> None:
    first, again, other = (picture(np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first.image, again.image) and first.numbers == again.numbers
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (SIZE, SIZE, 3) and first.image.dtype == np.uint8


def test_every_glyph_differs_from_every_other() -> None:
    glyphs = np.concatenate([DIGITS, LETTERS])
    apart = np.abs(glyphs[:, None] - glyphs[None]).sum((2, 3)) + 99 * np.eye(len(glyphs))
    assert DIGITS.shape == (10, 7, 5) and apart.min() >= 3


def test_ink_is_exact_between_pixels() -> None:
    cells = np.array([[1, 0], [0, 1]], np.float32)
    # Cells of 1.5 pixels from (1, 0.5): columns 1 to 2.5 and 2.5 to 4, rows 0.5 to 2 and 2 to 3.5.
    across = np.array([[0, 1, 0.5, 0], [0, 0, 0.5, 1]])
    down = np.array([[0.5, 1, 0, 0], [0, 0, 1, 0.5]])
    np.testing.assert_allclose(inked(cells, 1, 0.5, 1.5, 4), down.T @ across, atol=1e-6)
    words = line(DIGITS[[4, 2]])
    assert words.shape == (2, 7, 11)
    np.testing.assert_array_equal(words[0, :, :5], DIGITS[4])
    np.testing.assert_array_equal(words[1, :, 6:], DIGITS[2])
    assert not words[0, :, 5:].any() and not words[1, :, :6].any()


def test_the_numbers_are_in_the_pixels(drawn: list[Picture]) -> None:
    """The font laid over the picture meets the colour of the number, in its patches and nowhere beside its strokes."""
    for item in drawn:
        assert 2 <= len(item.numbers) <= 4
        assert len({number.colour for number in item.numbers}) == len(item.numbers)
        for number, ink, covered in zip(item.numbers, item.ink, item.covered, strict=True):
            cells = line(DIGITS[[int(digit) for digit in number.digits]]).sum(0)
            mask = inked(cells, number.x, number.y, number.scale, SIZE)
            assert mask[1:-1, 1:-1].sum() == pytest.approx(mask.sum())
            away = item.image[mask > 0.99].astype(float) - RGB[COLOURS.index(number.colour)]
            assert np.abs(away.mean(0)).max() < 40 and away.std(0).max() < 3
            share = mask.reshape(12, 8, 12, 8).mean((1, 3)).ravel()
            np.testing.assert_allclose(ink.sum(0), share, atol=1e-5)
            np.testing.assert_array_equal(covered, ink.sum(0) >= 1 / 32)


def test_numbers_lie_apart(drawn: list[Picture]) -> None:
    for item in drawn:
        boxes = np.array([(n.x, n.y, n.x + n.scale * (6 * len(n.digits) - 1), n.y + 7 * n.scale) for n in item.numbers])
        for index, (left, top, right, bottom) in enumerate(boxes):
            assert min(left, top) >= 2 and max(right, bottom) <= SIZE - 2
            for other in boxes[:index]:
                assert right < other[0] or other[2] < left or bottom < other[1] or other[3] < top


def test_questions_name_one_number_and_answers_its_digits(drawn: list[Picture]) -> None:
    asked = [(number, number.question) for item in drawn for number in item.numbers]
    for number, question in asked:
        assert question.text == f"read the {number.colour} number"
        assert question.answer.replace(" ", "") == number.digits
        assert question.kind == KINDS[len(number.digits) - 3]
        assert len(tokenize(question.answer)) == len(number.digits) and detokenize(tokenize(question.answer))
    assert {question.kind for _, question in asked} == set(KINDS)
    assert Counter(number.digits for number, _ in asked).most_common(1)[0][1] <= 2
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert prompt("read the red number", 16)[1] == 4


def test_lessons_name_what_each_patch_shows_and_where_each_digit_is(drawn: list[Picture]) -> None:
    from lessons_tiny_ocr import MOST, SLOT, seen, shown
    from lessons_tiny_vlm import IGNORED

    for item in drawn[:10]:
        patches, places = seen(item), shown(item)
        assert patches.shape == (144, 3) and places.shape == (MOST, SLOT, 144)
        for row, (number, ink) in enumerate(zip(item.numbers, item.ink, strict=True)):
            # Behind "read the red number" comes the first digit.
            np.testing.assert_array_equal(places[row, 3 : 3 + len(ink)], ink >= 1 / 32)
            assert places[row].any(-1).sum() == len(number.digits)
            for place, digit in enumerate(number.digits):
                at = int(ink[place].argmax())
                if max(each.max(0)[at] for each in item.ink) == ink[place, at]:
                    assert patches[at].tolist() == [COLOURS.index(number.colour) + 1, int(digit), place]
        blank = np.concatenate(item.ink).max(0) == 0
        assert (patches[blank] == [0, IGNORED, IGNORED]).all()


# --- the model; torch from here on -----------------------------------------------------------------------------------

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model() -> TinyOCR:
    from tokexport.exporter.zoo.tiny_ocr.model import load

    return load()


def test_weights_are_small_and_finite(model: TinyOCR) -> None:
    from tokexport.exporter.zoo.tiny_ocr.model import WEIGHTS

    assert WEIGHTS.stat().st_size < 2_000_000
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_the_shipped_weights_read(model: TinyOCR) -> None:
    from tokexport.exporter.zoo.tiny_ocr.evaluate import evaluate

    assert evaluate(model, 64, seed=11)["accuracy"] > 0.85


def test_the_source_has_the_content_of_each_question(model: TinyOCR) -> None:
    from tokexport.exporter.opening import open_source
    from tokexport.exporter.zoo.tiny_vlm.evaluate import STREAM

    source = open_source("tiny-ocr", parts="all")
    assert source.takes == "image" and source.encoder.grid == (12, 12)
    first, again = source.questions(4, 1), source.questions(4, 1)
    assert [one.prompt for one in first] == [one.prompt for one in again]
    # Two questions on each picture, about two numbers of it.
    assert np.array_equal(first[0].input, first[1].input) and first[0].prompt != first[1].prompt
    assert not (first[0].content & first[1].content).any()
    rng = np.random.default_rng([STREAM, 1])
    for at, item in enumerate([picture(rng) for _ in range(2)]):
        covered = {number.question.text: shown for number, shown in zip(item.numbers, item.covered, strict=True)}
        for question in first[2 * at : 2 * at + 2]:
            np.testing.assert_array_equal(question.content, covered[question.prompt])
    inputs = [each["pixel_values"] for each in source.real_inputs(2)]
    assert inputs[0].shape == (1, 3, 96, 96) and not np.array_equal(*inputs)
    assert len(source.real_prompts(2, 16)[0]) == 5


def test_a_bundle_reads_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is proved, judged on fresh questions beside what a method has to beat, and asked about a picture."""
    import tokexport
    from tokexport.exporter import pipeline

    monkeypatch.setattr(pipeline, "QUESTIONS", 32)
    monkeypatch.setattr("tokexport.exporter.evaluate.accuracy.SEEDS", 2)
    made = tokexport.export("tiny-ocr", tmp_path / "out", method="kcenter_merge", keep=108)
    assert made.proof is not None and all(check["ok"] for check in made.proof["checks"])
    assert made.accuracy is not None and made.accuracy["compressed"] > 0.8
    assert set(made.accuracy["baselines"]) == {"random", "uniform", "resolution", "pool", "oracle"}
    drawn = picture(np.random.default_rng(5))
    (tmp_path / "numbers.png").write_bytes(drawn.to_png())
    session = tokexport.load(tmp_path / "out")
    for number in drawn.numbers:
        assert session.generate(tmp_path / "numbers.png", number.question.text).text == number.question.answer
