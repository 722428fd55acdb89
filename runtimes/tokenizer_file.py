"""A tokenizer.json of Hugging Face's `tokenizers`, read by that library.

The file comes with a model, and a model may come from anywhere. The library reads what it is given: it panics on
tables that contradict themselves, and a chain of replacements may turn a word into gigabytes. So the file is read up to
a size, what lets a text grow is counted before the library sees it, and whatever it raises is an error of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BundleError, GraphError, MissingError, RequestError, first_line
from ..files import parse_json, read_bounded

if TYPE_CHECKING:
    from .bundle.manifest import GenerationRecord

# A text that is longer is no prompt.
LONGEST_TEXT = 100_000
# How many times longer a text may become on its way to ids or back; "▁" for a space is 3 bytes for one.
_MOST_GROWTH = 64
_MOST_PARTS = 64
# Characters of one token; real vocabularies have runs of a few hundred spaces.
_LONGEST_TOKEN = 1 << 16

_Found = TypeVar("_Found")


class TokenizerFile:
    """A tokenizer.json and the special ids of the model it belongs to.

    Args:
        content: of the file.
        path: of the file, for messages.
        generation: names `bos`, `eos` and the vocabulary; None: a prompt has no `bos`, and nothing ends an answer.

    Attributes:
        ids: of every token, special ones included.

    Raises:
        BundleError: it is damaged, its parts can blow up a text, or an id is outside the vocabulary of `generation`.
        MissingError: tokenizers is not installed.
    """

    def __init__(self, content: bytes, path: Path, generation: GenerationRecord | None = None) -> None:
        self._path, self._generation = path, generation
        self._tokenizer = self._read(content)
        self.ids = self._vocabulary()
        self._known = frozenset(self.ids.values())
        added: dict[int, Any] = self._calling(lambda: self._tokenizer.get_added_tokens_decoder())
        self._special = [token.content for token in added.values() if token.special and token.content]
        if generation and self._known and max(self._known) >= generation.vocabulary:
            raise BundleError(
                f"the tokenizer has an id {max(self._known)}, and the model a vocabulary of {generation.vocabulary}",
                where=str(path),
                fix="The tokenizer and the graphs are not of one model: export the bundle again.",
            )

    @classmethod
    def load(cls, path: Path, generation: GenerationRecord | None = None) -> TokenizerFile:
        """Read a tokenizer.json; see the class.

        Raises:
            BundleError: it is missing, too large or damaged; see the class.
        """
        try:
            content = read_bounded(path)
        except OSError as error:
            raise _damaged(path, getattr(error, "strerror", None) or str(error)) from None
        return cls(content, path, generation)

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text; what looks like a special token is read as text.

        Raises:
            RequestError: it is too long, or holds half a surrogate pair.
            BundleError: the file cannot read it.
        """
        _check_text(text)
        ids: list[int] = self._calling(lambda: self._tokenizer.encode(text, add_special_tokens=False).ids)
        return ids

    def prompt(self, text: str, images: int = 1) -> list[int]:
        """The ids of a question as the model wants it asked, without that of the image; else `bos` and those of a text.

        Args:
            text: the question.
            images: that it is about. Where the model takes several, the ids are with those of their places.

        Raises:
            RequestError: the bundle names no `bos`, or the question holds one of the model's special tokens.
            BundleError: the image stands at another place than in the graphs.
        """
        if self._generation is None:
            raise RequestError(
                "the bundle does not say which id a prompt begins with", fix="Pass the prompt as a list of ids."
            )
        asked = self._generation.prompt
        if asked is None:
            return [self._generation.bos, *self.tokenize(text)]
        _check_text(text)
        for special in self._special:
            if special in text:
                raise RequestError(
                    f"the prompt holds {special}, which is no text for this model but a mark of its own",
                    fix="Leave it out, or pass the whole prompt as a list of ids.",
                )
        whole = f"{asked.in_front(images)}{text.strip() if asked.strips else text}{asked.after}"
        ids = self.marked(whole, add_special_tokens=asked.add_special_tokens)
        several, offset = self._generation.images is not None, self._generation.image_span[0]
        if ids.count(asked.image) != images or not (several or ids.index(asked.image) == offset):
            raise BundleError(
                f"this prompt has {ids.count(asked.image)} places for {images} images"
                if several
                else f"the image is not behind {offset} ids of this prompt, as in the graphs",
                where=str(self._path),
                fix="The graphs and the tokenizer are not of one model: export the bundle again.",
            )
        return ids if several else [i for i in ids if i != asked.image]

    def marked(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The ids of a text in which special tokens are what they say; BundleError where the file cannot read it."""
        self._tokenizer.encode_special_tokens = False
        try:
            found: list[int] = self._calling(
                lambda: self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
            )
        finally:
            self._tokenizer.encode_special_tokens = True
        return found

    def detokenize(self, ids: Iterable[int]) -> str:
        """The text of the ids up to the first `eos`; special tokens are left out.

        Raises:
            GraphError: the file has no such id.
            BundleError: the file cannot write them.
        """
        ends = self._generation.eos if self._generation else []
        said: list[int] = []
        for i in ids:
            if i in ends:
                break
            if i not in self._known:
                raise GraphError(
                    f"the model answered with id {i}, and the tokenizer has none such",
                    where=str(self._path),
                    fix="The graphs and the tokenizer are not of one model: export the bundle again.",
                )
            said.append(i)
        text: str = self._calling(lambda: self._tokenizer.decode(said, skip_special_tokens=True))
        return text

    def _read(self, content: bytes) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingError(
                f"reading {self._path.name} needs tokenizers: {error}",
                fix='pip install "tokexport[text]", or pass the prompt as a list of ids.',
            ) from None
        try:
            data = parse_json(content)
            _check_growth(data)
            data["model"].pop("dropout", None)
            text = json.dumps(data, ensure_ascii=False)
            text.encode()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise _damaged(self._path, why) from None
        tokenizer = self._calling(lambda: Tokenizer.from_str(text))
        # Only the text counts: an answer is not padded, and a prompt that is too long is refused and not cut.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        return tokenizer

    def _vocabulary(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self._calling(lambda: self._tokenizer.get_vocab(with_added_tokens=True))
        longest = max(map(len, vocabulary), default=0)
        if longest > _LONGEST_TOKEN:
            raise _damaged(self._path, f"a token has {longest} characters, and at most {_LONGEST_TOKEN} are taken")
        return vocabulary

    def _calling(self, call: Callable[[], _Found]) -> _Found:
        """What the library returns; BundleError where it raises or panics."""
        try:
            return call()
        except Exception as error:
            raise _damaged(self._path, first_line(error, 200)) from None
        except BaseException as error:
            # A panic of the library is no `Exception`.
            if type(error).__name__ != "PanicException":
                raise
            raise _damaged(self._path, first_line(error, 200)) from None


def _check_text(text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise RequestError(
            f"the prompt has {len(text)} characters, and at most {LONGEST_TEXT} are taken", fix="Ask less at once."
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"the prompt {text[:40]!r} is no text: it cannot be written in UTF-8") from None


def _damaged(path: Path, why: str) -> BundleError:
    return BundleError(f"the tokenizer is damaged: {why}", where=str(path), fix="Export the bundle again.")


def _check_growth(data: Any) -> None:
    """Refuse parts that can make a text much longer: each alone is harmless, a chain of them doubles at every step."""
    if not isinstance(data, dict):
        raise ValueError(f"it is a {type(data).__name__}, and no object")
    for way in (("normalizer", "pre_tokenizer"), ("decoder",)):
        growth, count = 1, 0
        for part in (part for name in way for part in _parts(data.get(name))):
            growth, count = growth * _growth_of(part), count + 1
            if growth > _MOST_GROWTH or count > _MOST_PARTS:
                raise ValueError(
                    f"its {' and '.join(way)} can make a text more than {_MOST_GROWTH} times longer"
                    if growth > _MOST_GROWTH
                    else f"its {' and '.join(way)} has more than {_MOST_PARTS} parts"
                )


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside that names its type."""
    if isinstance(value, dict):
        if "type" in value:
            yield value
        for inside in value.values():
            yield from _parts(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _parts(inside)


def _growth_of(part: dict[str, Any]) -> int:
    """How many times longer a part makes a text at most: a pattern may stand at every character."""
    if part["type"] in ("ByteLevel", "ByteFallback"):
        return 2
    if part["type"] == "Precompiled":
        return 4
    added = [
        value for key in ("content", "prepend", "replacement", "suffix") if isinstance(value := part.get(key), str)
    ]
    longest = max(map(len, added), default=0)
    # In characters: one for another is no growth.
    return max(1, longest)
