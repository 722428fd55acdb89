"""The words of tiny-video and their ids; `runtimes.words` turns text into ids and back, here as in a bundle."""

from __future__ import annotations

from functools import partial

from ....runtimes.words import Words
from ..prompts import padded
from ..tiny_vlm.text import COLOURS, NUMBERS, SHAPES

DIRECTIONS: tuple[str, ...] = ("left", "right", "up", "down")

PAD, BOS, EOS = 0, 1, 2

# The order is the meaning of the ids in weights.safetensors: only ever append.
VOCABULARY: tuple[str, ...] = (
    *("<pad>", "<bos>", "<eos>"),
    *("what", "which", "how", "many", "way", "did", "do", "the", "object", "objects", "first", "last", "before", "?"),
    *("move", "moved", "start", "stop", "come", "came", "go", "went", "stayed", "yes", "no"),
    *DIRECTIONS,
    *COLOURS,
    *SHAPES,
    *NUMBERS,
)

WORDS = Words(VOCABULARY, bos=BOS, pad=PAD, eos=(EOS,))
tokenize = WORDS.tokenize
detokenize = WORDS.detokenize
prompt = partial(padded, WORDS, "tiny-video")
