"""Questions as ids of a fixed length, the input of the built-in models."""

from __future__ import annotations

from ...errors import RequestError
from ...runtimes.words import Words


def padded(words: Words, model: str, question: str, length: int) -> tuple[list[int], int]:
    """Return (`bos` + question, right padded to `length`; the index of its last word in that list).

    Raises:
        RequestError: an unknown word, or more words than `model` takes.
    """
    ids = words.prompt(question)
    if len(ids) > length:
        raise RequestError(
            f"{model} takes questions of at most {length - 1} words, this one has {len(ids) - 1}: {question!r}"
        )
    return ids + [words.pad] * (length - len(ids)), len(ids) - 1
