"""Sounds of any length through a recogniser made by hand: prompts, windows, pieces, times, and what is said of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_speech
from tokexport.errors import BundleError, RequestError
from tokexport.runtimes.load import load
from tokexport.runtimes.session import Session
from toy_speech import DE, EN, NO_TIMES, RATE, START, TIMES, TRANSCRIBE, TRANSLATE, said

pytest.importorskip("onnxruntime")
Prompts = list[list[int]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_speech.write(tmp_path_factory.mktemp("speech") / "toy", (30, 10, 15))


@pytest.fixture
def listen(bundle: Path) -> Iterator[tuple[Session, Prompts]]:
    """A session, and the prompts that its prefill gets."""
    session, prompts = load(bundle, threads=1), list[list[int]]()

    def seen(one: Session) -> Session:
        before = one.execute

        def execute(role: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if role == "prefill":
                prompts.append(feeds["input_ids"][0, : int(feeds["last_index"][0]) + 1].tolist())
            return before(role, feeds)

        one.execute = execute  # type: ignore[method-assign]
        return one

    reopen = session.reopen
    assert reopen is not None
    session.reopen = lambda name: seen(reopen(name))
    yield seen(session), prompts


@pytest.mark.parametrize(
    ("asked", "prompt"),
    [
        ({"language": "en"}, [START, EN, TRANSCRIBE, NO_TIMES]),
        ({"language": "DE", "task": "translate"}, [START, DE, TRANSLATE, NO_TIMES]),
        ({"language": "en", "timestamps": True}, [START, EN, TRANSCRIBE]),
        ({"language": "en", "prompt": "one two"}, [START, EN, TRANSCRIBE, NO_TIMES, 1, 2]),
        ({"prompt": [START, EN, TRANSLATE]}, [START, EN, TRANSLATE]),
    ],
)
def test_a_prompt_is_start_language_task_and_no_times(
    listen: tuple[Session, Prompts], asked: dict[str, Any], prompt: list[int]
) -> None:
    session, prompts = listen
    session.generate(said((5, 0.3)), **asked)
    assert prompts == [prompt]


def test_without_a_language_it_is_the_one_that_is_heard(listen: tuple[Session, Prompts]) -> None:
    session, prompts = listen
    answer = session.generate(said((29, 0.3), (1, 0), (5, 0.4)))
    assert answer.language == "de"
    # It is asked for once: the rest of a sound is in the language of its beginning.
    assert prompts == [[START], *[[START, DE, TRANSCRIBE, NO_TIMES]] * 2]


def test_words_that_a_transcript_begins_with_stand_before_the_first_piece_alone(
    listen: tuple[Session, Prompts],
) -> None:
    session, prompts = listen
    session.generate(said((29, 0.3), (2, 0.4)), "one", language="en")
    assert [ids[4:] for ids in prompts] == [[1], []]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"language": "german"}, r"lacks the language 'german'.*Did you mean de\? Known languages, by code: de, en"),
        ({"language": "xx"}, r"'xx' \(.*\)\. Known languages, by code: de, en\.$"),
        ({"task": "translat"}, r"lacks the task 'translat'.*Did you mean translate"),
        ({"language": "en", "prompt": [START]}, "ids are a whole prompt, so language has no use"),
        ({"timestamps": True, "prompt": "one"}, "begins with given words has no times"),
        ({"prompt": "eleven"}, "does not know the word 'eleven'"),
        ({"max_new_tokens": 7}, r"max_new_tokens 7 is outside 1\.\.6"),
    ],
)
def test_what_the_model_lacks_is_refused_before_the_sound_is_read(
    bundle: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        load(bundle).generate("nowhere.wav", **asked)


@pytest.mark.parametrize(("change", "asked", "message"), toy_speech.LACKING)
def test_a_model_of_one_language_or_without_times_says_so(
    tmp_path: Path, change: dict[str, Any] | None, asked: dict[str, Any], message: str
) -> None:
    speech = None if change is None else toy_speech.SPEECH.model_copy(update=change)
    session = load(toy_speech.write(tmp_path / "b", speech=speech), threads=1)
    with pytest.raises(RequestError, match=message):
        session.generate(said((5, 0.3)), **asked)


def test_a_model_without_languages_tasks_and_times_gets_start_alone(tmp_path: Path) -> None:
    alone = toy_speech.SpeechRecord(start=toy_speech.TRANSCRIBE)
    answer = load(toy_speech.write(tmp_path / "b", speech=alone), threads=1).generate(said((5, 0.3)))
    assert answer.text == "three" and answer.language is None and answer.segments is None


@pytest.mark.parametrize(
    ("seconds", "variant"), [(1, "10s"), (9, "10s"), (9.01, "15s"), (14, "15s"), (14.01, "30s"), (30, "30s")]
)
def test_the_shortest_window_that_leaves_silence_hears_it(bundle: Path, seconds: float, variant: str) -> None:
    answer = load(bundle, threads=1).generate(said((seconds, 0.3)))
    assert [piece.variant for piece in answer.pieces] == [f"toy-{variant}"]


def test_a_named_variant_is_the_only_one(bundle: Path) -> None:
    session = load(bundle, threads=1, variant="toy-15s")
    answer = session.generate(said((20, 0.3)))
    assert [piece.variant for piece in answer.pieces] == ["toy-15s"] * 2
    assert answer.text == "three three"


def test_a_window_too_short_to_be_safe_is_taken_where_it_is_named(tmp_path: Path) -> None:
    path = toy_speech.write(tmp_path / "b", (30, 5))
    assert load(path, threads=1).generate(said((3, 0.3))).pieces[0].variant == "toy-30s"
    assert load(path, threads=1, variant="toy-5s").generate(said((3, 0.3))).pieces[0].variant == "toy-5s"


def test_a_long_sound_is_cut_where_nobody_speaks(bundle: Path) -> None:
    sound = said((24, 0.3), (1, 0), (25, 0.4), (1, 0), (20, 0.8), (1, 0), (8, 0.2))
    told: list[tuple[float, float]] = []
    answer = load(bundle, threads=1).generate(sound, listening=lambda *seconds: told.append(seconds))
    assert answer.text == "three four eight"
    assert [piece.variant for piece in answer.pieces] == ["toy-30s"] * 3
    starts = [piece.start for piece in answer.pieces]
    assert starts[0] == 0 and 24 < starts[1] < 25 and 50 < starts[2] < 51
    assert [piece.end for piece in answer.pieces] == [*starts[1:], 80]
    assert told == [(piece.end, 80) for piece in answer.pieces]
    np.testing.assert_array_equal(answer.kept_indices, [0, 0, 0])
    np.testing.assert_array_equal(answer.sizes, [2, 2, 2])


def test_times_count_from_the_beginning_of_the_sound(bundle: Path) -> None:
    answer = load(bundle, threads=1).generate(said((25, 0.7), (1, 0), (5, 0.4)), language="en", timestamps=True)
    first, second = answer.segments or []
    # "seven" has an end of its own; the other one is left open, and ends with its piece.
    assert (first.start, first.end, first.text) == (0, 2, "seven")
    assert 25 < second.start < 26 and (second.end, second.text) == (31, "four")
    assert answer.text == "seven four"
    assert answer.ids == [TIMES, 7, TIMES + 4, TIMES, 4]


def test_no_segment_is_longer_than_its_piece(bundle: Path) -> None:
    answer = load(bundle, threads=1).generate(said((1, 0.7)), language="en", timestamps=True)
    assert [(one.start, one.end) for one in answer.segments or []] == [(0, 1)]


def test_the_limit_and_repeats_are_said(bundle: Path) -> None:
    answer = load(bundle, threads=1).generate(said((5, 0.9)))
    assert not answer.finished and answer.ids == [9] * toy_speech.NEW
    cut, again = answer.notes
    assert cut == "the limit of 6 tokens cut the transcript off between 0:00.0 and 0:05.0"
    assert again.endswith("6 times 'nine' between 0:00.0 and 0:05.0")
    assert load(bundle, threads=1).generate(said((5, 0.9)), max_new_tokens=2).notes[0].startswith("the limit of 2")


def test_a_finished_answer_has_no_notes(bundle: Path) -> None:
    answer = load(bundle, threads=1).generate(said((5, 0.3)))
    assert answer.finished and not answer.notes
    assert answer.to_json().keys() == {"text", "ids", "language", "pieces", "kept_indices", "sizes"}


@pytest.mark.parametrize(("level", "silent"), [(0, True), (9e-4, True), (2e-3, False)])
def test_a_text_on_silence_is_given_and_doubted(bundle: Path, level: float, silent: bool) -> None:
    answer = load(bundle, threads=1).generate(said((40, level)))
    assert answer.text == "zero zero"
    wanted = ("the sound is silent between 0:00.0 and 0:40.0: what is written there was likely not said",)
    assert answer.notes == (wanted if silent else ())


def test_many_silent_places_are_counted(bundle: Path) -> None:
    sound = said(*[(20, 0.0), (20, 0.5)] * 7)
    (note,) = load(bundle, threads=1, variant="toy-10s").generate(sound).notes
    assert re.search(r"silent between 0:00\.0 and 0:1\d.*, and 3 times more: what", note)
    assert note.count("between") == 4


def test_a_word_that_begins_with_a_space_is_joined_as_it_is(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(bundle, threads=1)
    sound = said((29, 0.3), (2, 0.4))

    def spelled(word: Callable[[int], str]) -> None:
        class Spelling:
            def detokenize(self, ids: list[int]) -> str:
                return "".join(map(word, ids))

        monkeypatch.setattr(session, "words", Spelling())

    spelled(lambda i: f" w{i}")
    assert session.generate(sound).text == "w3 w4"
    spelled(lambda i: f"w{i}")
    assert session.generate(sound).text == "w3 w4"


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(0, np.float32), "the sound is empty"),
        (np.zeros(100, np.int16), r"a waveform is float32 \[samples\], not int16"),
        (np.zeros((100, 2, 1), np.float32), r"not float32 \[100, 2, 1\]"),
        (np.full(5000, np.nan, np.float32), "NaN or inf"),
        (7, "a int is not a sound"),
    ],
)
def test_what_is_no_sound_is_refused(bundle: Path, sound: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(bundle, threads=1).generate(sound)


def test_the_encoders_own_input_is_one_window(bundle: Path) -> None:
    ready = np.zeros((1, 30 * RATE), np.float32)
    ready[0, 5] = 0.3
    answer = load(bundle, threads=1).generate(ready)
    assert answer.text == "three"
    assert [(piece.end, piece.variant) for piece in answer.pieces] == [(30, "toy-30s")]


def test_a_bundle_that_does_not_say_how_sound_becomes_input_is_damaged(tmp_path: Path) -> None:
    session = load(toy_speech.write(tmp_path / "b"), threads=1)
    session.variant.preprocess = session.bundle.manifest.preprocess = None
    with pytest.raises(BundleError, match="none of how a sound becomes the input of toy-30s"):
        session.generate(said((5, 0.3)))


def test_what_is_suppressed_at_the_beginning_is_not_the_first_id(bundle: Path) -> None:
    # Behind "one" the toy says the end; of the ids that are left all are alike, and the lowest one is "zero".
    assert load(bundle, threads=1).generate(said((5, 0.3)), "one", language="en").text == "zero"
