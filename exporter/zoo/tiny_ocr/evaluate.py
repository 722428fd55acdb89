"""Asks tiny-ocr fresh questions in PyTorch, with or without a compressor between the encoder and the projector."""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..tiny_vlm.evaluate import ASKED, STREAM, Compress, QuestionSet, answers, by_kind, by_method, eyes
from .model import WEIGHTS, TinyOCR, load
from .pictures import KINDS, picture
from .text import WORDS, prompt


@lru_cache(maxsize=4)
def question_set(n: int, seed: int, length: int = 16) -> QuestionSet:
    """Draw `n` questions, about two numbers of each picture, that no training step has seen."""
    rng = np.random.default_rng([STREAM, seed])
    drawn = [picture(rng) for _ in range(-(-n // ASKED))]
    asked = [
        (at, item.numbers[which].question, item.covered[which])
        for at, item in enumerate(drawn)
        for which in rng.permutation(len(item.numbers))[:ASKED]
    ]
    return QuestionSet.of([item.image for item in drawn], asked[:n], prompt, length)


def evaluate(
    model: TinyOCR, n: int = 4096, seed: int = 0, compress: Compress | None = None, size_bias: bool = True
) -> dict[str, float]:
    """Share of numbers that are read in full, over all and by length; `compress` runs after the encoder."""
    drawn = question_set(n, seed, model.config.prompt_length)
    return by_kind(drawn, answers(model, drawn, eyes(model), WORDS, compress, size_bias), KINDS)


def main() -> None:
    """Command line: the weights uncompressed, merged with and without the size bias, at random."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--questions", type=int, default=4096)
    parser.add_argument("--keep", type=int, nargs="+", default=[72, 36, 21])
    asked = parser.parse_args()
    model = load(asked.weights)
    print("uncompressed", evaluate(model, asked.questions), flush=True)
    for keep in asked.keep:
        for method, bias in (("kcenter_merge", False), ("kcenter_merge", True), ("random", False)):
            found = evaluate(model, asked.questions, compress=by_method(method, keep), size_bias=bias)
            print(f"{method} {keep} bias {bias}", found, flush=True)


if __name__ == "__main__":
    main()
