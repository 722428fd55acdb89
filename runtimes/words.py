"""A word-level text processor: a fixed vocabulary, one id per word. The built-in models use it.

Its file, by default processor/words.json:

    {"words": ["<pad>", "<bos>", "<eos>", "what", "colour", "?"], "pad": 0, "bos": 1, "eos": 2,
     "spellings": {"color": "colour"}}

A word's index in the list is its id. Case is ignored. Punctuation is a word of its own even without a space ("circle?"
is "circle" and "?"). The special words cannot be typed.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ..errors import BundleError, GraphError, RequestError
from ..files import parse_json, read_bounded

# So many words are a help; more are not read.
_FEW = 12


class _Record(BaseModel, strict=True):
    """The content of a vocabulary file."""

    words: list[str] = Field(min_length=1)
    pad: int
    bos: int
    eos: int | list[int]
    spellings: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """The vocabulary and its rules.

    Attributes:
        words: word of each id.
        bos: id before every prompt.
        pad: id that fills a prompt up.
        eos: ids that end an answer.
        spellings: other spelling -> word.
    """

    words: tuple[str, ...]
    bos: int
    pad: int
    eos: tuple[int, ...]
    spellings: Mapping[str, str] = field(default_factory=dict)

    def tokenize(self, text: str) -> list[int]:
        """Turn words into ids, without `bos`.

        Raises:
            RequestError: a word is not in the vocabulary; a guess would answer another question.
        """
        known = {word: i for i, word in enumerate(self.words) if i not in self._special()}
        # Longest first, so that "..." is not read as three words.
        marks = [
            re.escape(word) for word in sorted(known, key=len, reverse=True) if word and not re.search(r"\w", word)
        ]
        spaced = re.sub("|".join(marks), lambda mark: f" {mark[0]} ", text.lower()) if marks else text.lower()
        spelled = [self.spellings.get(word, word) for word in spaced.split()]
        unknown = next((word for word in spelled if word not in known), None)
        if unknown is not None:
            raise RequestError(
                f"the model does not know the word {_short(unknown)}",
                where=f"prompt {_short(text)}",
                fix=_known(unknown, known),
            )
        return [known[word] for word in spelled]

    def prompt(self, text: str) -> list[int]:
        """`bos` and the ids of a text."""
        return [self.bos, *self.tokenize(text)]

    def detokenize(self, ids: Iterable[int]) -> str:
        """Join the words of the ids up to the first `eos`; `pad` and `bos` are left out.

        Raises:
            GraphError: an id is outside the vocabulary.
        """
        words = []
        for i in ids:
            if i in self.eos:
                break
            if not 0 <= i < len(self.words):
                raise GraphError(
                    f"the model answered with id {i}, and the vocabulary has {len(self.words)} words",
                    fix="The graphs and the vocabulary are not of one model: export the bundle again.",
                )
            if i not in self._special():
                words.append(self.words[i])
        return " ".join(words)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` reads it back."""
        eos: Any = self.eos[0] if len(self.eos) == 1 else list(self.eos)
        ids = {"words": list(self.words), "pad": self.pad, "bos": self.bos, "eos": eos}
        return {**ids, "spellings": dict(self.spellings)} if self.spellings else ids

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Words:
        """Read what `to_json` wrote.

        Raises:
            ValueError: a key is missing or unknown, a value has another type, a word occurs twice, or a special id is
                no word.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"it is a {type(data).__name__}, and no object")
        unknown = data.keys() - {"words", "pad", "bos", "eos", "spellings"}
        missing = {"words", "pad", "bos", "eos"} - data.keys()
        if unknown or missing:
            raise ValueError(f"{'unknown' if unknown else 'missing'} key {sorted(unknown or missing)[0]!r}")
        try:
            record = _Record.model_validate(dict(data))
        except ValidationError as error:
            first = error.errors()[0]
            if first["loc"][0] in ("pad", "bos", "eos"):
                raise ValueError(f"special id {str(first['input'])[:80]} is no word") from None
            raise ValueError(f"it is wrong at {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        words, eos = tuple(record.words), record.eos
        found = cls(
            words=words,
            bos=record.bos,
            pad=record.pad,
            eos=tuple(eos) if isinstance(eos, list) else (eos,),
            spellings=record.spellings,
        )
        if len(set(words)) != len(words):
            raise ValueError(f"the word {Counter(words).most_common(1)[0][0]!r} stands twice")
        outside = [i for i in found._special() if not 0 <= i < len(words)]
        if outside:
            raise ValueError(f"special id {outside[0]!r} is no word")
        return found

    @classmethod
    def load(cls, path: Path) -> Words:
        """Read a vocabulary file.

        Raises:
            BundleError: it is missing or damaged.
        """
        try:
            return cls.from_json(parse_json(read_bounded(path)))
        except (OSError, ValueError) as error:
            raise BundleError(
                f"the vocabulary is damaged: {getattr(error, 'strerror', None) or error}",
                where=str(path),
                fix="Export the bundle again.",
            ) from None

    def _special(self) -> set[int]:
        return {self.pad, self.bos, *self.eos}


def _known(unknown: str, known: Iterable[str]) -> str:
    """What to say instead of a word that is not known: near ones; all only where they are few."""
    words = list(known)
    # Beyond that, comparing all words with one another takes seconds.
    near = difflib.get_close_matches(unknown[:40], words[:20_000], n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    if len(words) <= _FEW:
        return f"{hint}It knows: {' '.join(words)}"
    return hint.strip() or f"It knows {len(words)} words, and none like it: ask with other words."


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:77]!r}..."
