"""Asks tiny-video fresh questions in PyTorch, with or without a compressor between the encoder and the projector."""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..tiny_vlm.evaluate import ASKED, STREAM, Compress, QuestionSet, answers, by_kind, by_method
from .clips import FRAMES, GRID, clip, clip_values
from .model import WEIGHTS, TinyVideo, load
from .questions import KINDS, questions
from .text import WORDS, prompt


@lru_cache(maxsize=4)
def question_set(n: int, seed: int, length: int = 16) -> QuestionSet:
    """Draw `n` questions, two on each clip, that no training step has seen."""
    rng = np.random.default_rng([STREAM, seed])
    drawn = [clip(rng) for _ in range(-(-n // ASKED))]
    asked = [
        (at, question, question.content(item))
        for at, item in enumerate(drawn)
        for question in questions(item, rng, ASKED)
    ]
    return QuestionSet.of([item.frames for item in drawn], asked[:n], prompt, length)


def evaluate(
    model: TinyVideo, n: int = 4096, seed: int = 0, compress: Compress | None = None, size_bias: bool = True
) -> dict[str, float]:
    """Share of answers that match in full, over all and by kind; `compress` runs after the encoder."""
    drawn = question_set(n, seed, model.config.prompt_length)

    def see(pixels: NDArray[np.uint8]) -> Tensor:
        return model.vision(torch.from_numpy(clip_values(pixels)))

    return by_kind(drawn, answers(model, drawn, see, WORDS, compress, size_bias), KINDS)


def main() -> None:
    """Command line: the weights uncompressed, merged with and without the size bias, at random."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--questions", type=int, default=4096)
    parser.add_argument("--keep", type=int, default=43)
    parser.add_argument("--seeds", type=int, default=3, help="of random")
    asked = parser.parse_args()
    model = load(asked.weights)
    print("uncompressed", evaluate(model, asked.questions), flush=True)
    grid = (FRAMES, GRID, GRID)
    for bias in (False, True):
        merged = by_method("kcenter_merge", asked.keep, grid)
        print(f"kcenter_merge {asked.keep} bias {bias}", evaluate(model, asked.questions, 0, merged, bias), flush=True)
    for seed in range(asked.seeds):
        chance = by_method("random", asked.keep, grid, seed=seed)
        print(f"random {asked.keep} seed {seed}", evaluate(model, asked.questions, compress=chance), flush=True)


if __name__ == "__main__":
    main()
