"""How a bundle turns text into ids and ids into text, whichever processor it has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from ..errors import BundleError
from .tokenizer_file import TokenizerFile
from .words import Words

if TYPE_CHECKING:
    from .bundle.manifest import GenerationRecord
    from .bundle.reader import Bundle


class Text(Protocol):
    """What `Words` and `TokenizerFile` have in common."""

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, without special ones; RequestError where it cannot be read."""
        ...

    def prompt(self, text: str) -> list[int]:
        """`bos` and the ids of a text."""
        ...

    def detokenize(self, ids: Iterable[int]) -> str:
        """The text of the ids up to the first `eos`, without special ones; GraphError where an id is unknown."""
        ...


def text_of(bundle: Bundle, generation: GenerationRecord | None) -> Text | None:
    """The text processor of a bundle, None where it has none.

    Args:
        bundle: opened.
        generation: the record of the variant, whose special ids the processor must share.

    Raises:
        BundleError: its file is damaged or has changed, or its ids are not those of the generation record.
        MissingError: the library that reads it is not installed.
    """
    processor = bundle.manifest.processor
    if processor.kind == "tokenizers" and processor.tokenizer is not None:
        with bundle.unchanged([processor.tokenizer]):
            return TokenizerFile.load(bundle.file(processor.tokenizer), generation)
    if processor.kind != "words" or processor.vocabulary is None:
        return None
    with bundle.unchanged([processor.vocabulary]):
        words = Words.load(bundle.file(processor.vocabulary))
    if generation and (words.bos, words.pad, list(words.eos)) != (generation.bos, generation.pad, generation.eos):
        raise BundleError(
            f"bos, pad and eos of {processor.vocabulary} are not those of the manifest's generation record",
            where=str(bundle.path),
            fix="Export the bundle again.",
        )
    return words
