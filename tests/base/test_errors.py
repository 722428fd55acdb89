"""An error is one paragraph, however long what a file holds."""

import pytest
from tokexport.errors import RequestError, nearest


@pytest.mark.parametrize("part", ["what", "where"])
def test_the_beginning_and_the_end_of_a_long_part_are_kept(part: str) -> None:
    error = RequestError(**{"what": "the option", part: f"begins {'x' * 100_000} ends", "fix": "f" * 3000})
    text = str(error)
    assert text.startswith("begins" if part == "what" else "the option (begins")
    assert " ends" in text
    assert len(text) < 3000 + 1500
    assert error.fix == "f" * 3000, "what is to be typed is never cut"


def test_of_many_known_names_the_first_are_listed() -> None:
    names = [f"name-{i:05}" for i in range(10_000)]
    text = nearest("name-09999", names, kind="names")
    assert text.startswith("Did you mean name-09999")
    assert "name-00000, name-00001" in text
    assert text.endswith(" more.")
    assert len(text) < 2500


def test_names_that_are_too_long_are_counted() -> None:
    assert nearest("a", ["b" * 5000, "c"], kind="names") == "Known names: 2, with long names."


def test_no_name_is_known() -> None:
    assert nearest("a", [], kind="names") == "Known names: none."
