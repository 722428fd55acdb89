"""The words of tiny-vlm and their ids; `runtimes.words` turns text into ids and back, here as in a bundle."""

from __future__ import annotations

from functools import partial

from ....runtimes.words import Words
from ..prompts import padded

COLOURS: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five")

PAD, BOS, EOS = 0, 1, 2

# The order is the meaning of the ids in weights.safetensors: only ever append.
VOCABULARY: tuple[str, ...] = (
    *("<pad>", "<bos>", "<eos>"),
    *("what", "colour", "shape", "how", "many", "is", "are", "the", "a", "an", "there", "object", "objects", "?"),
    *("it", "yes", "no"),
    *COLOURS,
    *SHAPES,
    *(shape + "s" for shape in SHAPES),
    *NUMBERS,
)
WORD_TO_ID: dict[str, int] = {word: index for index, word in enumerate(VOCABULARY)}

WORDS = Words(VOCABULARY, bos=BOS, pad=PAD, eos=(EOS,), spellings={"color": "colour"})
tokenize = WORDS.tokenize
detokenize = WORDS.detokenize
prompt = partial(padded, WORDS, "tiny-vlm")
