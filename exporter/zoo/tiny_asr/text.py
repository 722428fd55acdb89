"""The words of tiny-asr and their ids; `runtimes.words` turns text into ids and back, here as in a bundle."""

from __future__ import annotations

from ....runtimes.words import Words

DIGITS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

PAD, BOS, EOS = 0, 1, 2

# The order is the meaning of the ids in weights.safetensors: only ever append.
VOCABULARY: tuple[str, ...] = ("<pad>", "<bos>", "<eos>", *DIGITS)

WORD_TO_ID: dict[str, int] = {word: index for index, word in enumerate(VOCABULARY)}

WORDS = Words(VOCABULARY, bos=BOS, pad=PAD, eos=(EOS,))
tokenize = WORDS.tokenize
detokenize = WORDS.detokenize
