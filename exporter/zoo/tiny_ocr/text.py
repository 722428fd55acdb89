"""The words of tiny-ocr and their ids; a number is said digit by digit."""

from __future__ import annotations

from functools import partial

from ....runtimes.words import Words
from ..prompts import padded
from ..tiny_vlm.text import COLOURS

DIGITS: tuple[str, ...] = tuple("0123456789")

PAD, BOS, EOS = 0, 1, 2

# The order is the meaning of the ids in weights.safetensors: only ever append.
VOCABULARY: tuple[str, ...] = ("<pad>", "<bos>", "<eos>", "read", "the", "number", *COLOURS, *DIGITS)

WORDS = Words(VOCABULARY, bos=BOS, pad=PAD, eos=(EOS,))
tokenize = WORDS.tokenize
detokenize = WORDS.detokenize
prompt = partial(padded, WORDS, "tiny-ocr")
