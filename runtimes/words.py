"""A word-level text processor: a fixed vocabulary, one id per word. The built-in models use it.

Its file, by default processor/words.json:

    {"words": ["<pad>", "<bos>", "<eos>", "what", "colour", "?"], "pad": 0, "bos": 1, "eos": 2,
     "spellings": {"color": "colour"}}

A word's index in the list is its id. Case is ignored. Punctuation is a word of its own even without a space ("circle?"
is "circle" and "?"). The special words cannot be typed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BundleError, GraphError, RequestError


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
        marks = [re.escape(word) for word in sorted(known, key=len, reverse=True) if not re.search(r"\w", word)]
        spaced = re.sub("|".join(marks), lambda mark: f" {mark[0]} ", text.lower()) if marks else text.lower()
        spelled = [self.spellings.get(word, word) for word in spaced.split()]
        unknown = next((word for word in spelled if word not in known), None)
        if unknown is not None:
            close = difflib.get_close_matches(unknown, known, n=1, cutoff=0.6)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise RequestError(
                f"the model does not know the word {unknown!r}",
                where=f"prompt {text!r}",
                fix=f"{hint}It knows: {' '.join(known)}",
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
            ValueError: a key is missing or unknown, a word occurs twice, or a special id is no word.
        """
        unknown = data.keys() - {"words", "pad", "bos", "eos", "spellings"}
        missing = {"words", "pad", "bos", "eos"} - data.keys()
        if unknown or missing:
            raise ValueError(f"{'unknown' if unknown else 'missing'} key {sorted(unknown or missing)[0]!r}")
        words, eos = tuple(data["words"]), data["eos"]
        found = cls(
            words=words,
            bos=data["bos"],
            pad=data["pad"],
            eos=tuple(eos) if isinstance(eos, list) else (eos,),
            spellings=dict(data.get("spellings", {})),
        )
        if len(set(words)) != len(words):
            raise ValueError(f"the word {next(w for w in words if words.count(w) > 1)!r} stands twice")
        outside = [i for i in found._special() if not (isinstance(i, int) and 0 <= i < len(words))]
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
            return cls.from_json(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise BundleError(
                f"the vocabulary is damaged: {error}", where=str(path), fix="Export the bundle again."
            ) from None

    def _special(self) -> set[int]:
        return {self.pad, self.bos, *self.eos}
