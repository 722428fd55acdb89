import json
from pathlib import Path
from typing import Any

import pytest
from tokexport.errors import BundleError, GraphError, RequestError
from tokexport.runtimes.words import Words
from toy_bundle import WORDS


def test_words_become_ids_whatever_the_case_and_the_spacing() -> None:
    assert WORDS.tokenize("A b?") == [3, 4, 9]
    assert WORDS.tokenize("  a\tb ?") == [3, 4, 9]
    assert WORDS.tokenize("") == []
    assert WORDS.prompt("a") == [1, 3]


def test_unknown_word_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"does not know the word 'zebra'.*It knows: a b c d e f \?") as caught:
        WORDS.tokenize("a zebra")
    assert "<pad>" not in str(caught.value)


def test_near_word_is_suggested() -> None:
    words = Words(("<p>", "<b>", "<e>", "circle"), bos=1, pad=0, eos=(2,))
    with pytest.raises(RequestError, match="Did you mean 'circle'"):
        words.tokenize("circel")


@pytest.mark.parametrize("special", ["<pad>", "<bos>", "<eos>"])
def test_special_words_cannot_be_typed(special: str) -> None:
    with pytest.raises(RequestError, match=special):
        WORDS.tokenize(special)


def test_longer_marks_are_read_first() -> None:
    words = Words(("<p>", "<b>", "<e>", ".", "..."), bos=1, pad=0, eos=(2,))
    assert words.tokenize("....") == [4, 3]


def test_spellings() -> None:
    words = Words(("<p>", "<b>", "<e>", "colour"), bos=1, pad=0, eos=(2,), spellings={"color": "colour"})
    assert words.tokenize("Color colour") == [3, 3]


def test_detokenize_stops_at_eos_and_leaves_out_special_words() -> None:
    assert WORDS.detokenize([1, 3, 0, 4, 2, 5]) == "a b"


def test_detokenize_refuses_an_id_outside() -> None:
    with pytest.raises(GraphError, match=r"id 10.*10 words"):
        WORDS.detokenize([10])


@pytest.mark.parametrize("eos", [(2,), (2, 9)])
def test_file_and_back(tmp_path: Path, eos: tuple[int, ...]) -> None:
    words = Words(WORDS.words, bos=1, pad=0, eos=eos, spellings={"aa": "a"})
    path = tmp_path / "words.json"
    path.write_text(json.dumps(words.to_json()))
    assert Words.load(path) == words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": ["<pad>", "a", "a"]}, "'a' stands twice"),
        ({"eos": 99}, "special id 99"),
        ({"pad": None}, "special id None"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"bos": ...}, "missing key 'bos'"),
    ],
)
def test_damaged_vocabulary(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = {key: value for key, value in (WORDS.to_json() | change).items() if value is not ...}
    path = tmp_path / "words.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BundleError, match=message):
        Words.load(path)


def test_missing_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="damaged"):
        Words.load(tmp_path / "none.json")


def test_an_unknown_word_of_a_large_vocabulary_is_answered_in_one_line() -> None:
    many = Words(("<pad>", "<bos>", "<eos>", *(f"word{i}" for i in range(500)), "colour"), bos=1, pad=0, eos=(2,))
    with pytest.raises(RequestError, match="Did you mean 'colour'") as caught:
        many.tokenize("colou")
    assert len(str(caught.value)) < 200
    with pytest.raises(RequestError, match="It knows 501 words, and none like it") as caught:
        many.tokenize("x" * 5000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "change",
    [{"words": "abc"}, {"words": [1, 2, 3]}, {"bos": True}, {"eos": [[2]]}, {"spellings": {"a": 1}}, {"words": {}}],
)
def test_a_vocabulary_of_wrong_types_is_refused_by_key(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "words.json").write_text(json.dumps(WORDS.to_json() | change))
    with pytest.raises(BundleError, match=rf"words\.json|{next(iter(change))}"):
        Words.load(tmp_path / "words.json")
