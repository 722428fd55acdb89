"""Asks tiny-vlm fresh questions in PyTorch, with or without a compressor between the encoder and the projector."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....runtimes.words import Words
from ..decoding import greedy, write
from .layers import TinyVLMConfig
from .model import BLOCK, Decode, Embed, Prefill, TinyVLM, load, load_wide_projector
from .questions import KINDS, Question, questions
from .scenes import pixel_values, scene
from .text import EOS, PAD, WORDS, prompt

# features [B, N, Dv] -> tokens [B, K, Dv], kept_indices int64 [B, K], sizes float32 [B, K]
Compress = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

# Training seeds are (1, step): another first number keeps evaluation seeds apart from all of them.
STREAM = 0x7E57
ASKED = 2
_BATCH = 128


@dataclass(frozen=True)
class QuestionSet:
    """S pictures and Q questions with answers.

    Attributes:
        pixels: uint8 [S, ...].
        scene: int64 [Q], the picture that each question is about.
        asked: [Q].
        content: bool [Q, N], the tokens that the answer depends on.
        ids: int64 [Q, P].
        last: int64 [Q], index of the last word.
    """

    pixels: NDArray[np.uint8]
    scene: NDArray[np.int64]
    asked: list[Question]
    content: NDArray[np.bool_]
    ids: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        pixels: Sequence[NDArray[np.uint8]],
        asked: Sequence[tuple[int, Question, NDArray[np.bool_]]],
        prompt: Callable[[str, int], tuple[list[int], int]],
        length: int,
    ) -> QuestionSet:
        """From pictures and (picture, question, content) of every question; `prompt` gives ids of this length."""
        scene, questions, content = zip(*asked, strict=True)
        ids, last = zip(*(prompt(question.text, length) for question in questions), strict=True)
        return cls(np.stack(pixels), np.array(scene), list(questions), np.stack(content), np.array(ids), np.array(last))


@lru_cache(maxsize=4)
def question_set(n: int, seed: int, length: int = 16) -> QuestionSet:
    """Draw `n` questions, two on each scene, that no training step has seen."""
    rng = np.random.default_rng([STREAM, seed])
    drawn = [scene(rng) for _ in range(-(-n // ASKED))]
    asked = [(at, question, item.covered) for at, item in enumerate(drawn) for question in questions(item, rng, ASKED)]
    return QuestionSet.of([item.image for item in drawn], asked[:n], prompt, length)


@torch.inference_mode()
def generate(
    model: TinyVLM, ids: Tensor, last: Tensor, tokens: Tensor, kept_indices: Tensor, token_bias: Tensor
) -> Tensor:
    """Greedy answers int64 [B, <= max_new] to the prompts, as the exported graphs produce them.

    ids [B, P] and last [B] int64 (index in the prompt), tokens [B, K, D], kept_indices [B, K] int64, token_bias [B, K].
    """
    keep = tokens.shape[1]
    index = last + keep
    prefill, decode = Prefill(model, keep), Decode(model, keep)
    logits, *cache = prefill(Embed(model)(ids, tokens), kept_indices, token_bias, index)

    def follow(word: Tensor, said: int) -> Tensor:
        logits, *new = decode(word, index + said, token_bias, *cache)
        write(cache, new, index + said)
        return logits

    return greedy(logits, follow, model.config.max_new, pad=PAD, eos=EOS)


def evaluate(
    model: TinyVLM, n: int = 8192, seed: int = 0, compress: Compress | None = None, size_bias: bool = True
) -> dict[str, float]:
    """Share of answers that match in full, over all and by kind; `compress` runs after the encoder, CLS dropped.

    Where it widens the tokens, the projector of `model` must take wide tokens.
    """
    drawn = question_set(n, seed, model.config.prompt_length)
    return by_kind(drawn, answers(model, drawn, eyes(model), WORDS, compress, size_bias), KINDS)


def eyes(model: TinyVLM) -> Callable[[NDArray[np.uint8]], Tensor]:
    """Pictures uint8 [B, 96, 96, 3] -> features [B, N, Dv], CLS dropped."""

    def see(pixels: NDArray[np.uint8]) -> Tensor:
        seen: Tensor = model.vision(torch.from_numpy(pixel_values(pixels)))
        return seen[:, 1:]

    return see


@torch.inference_mode()
def answers(
    model: TinyVLM,
    drawn: QuestionSet,
    see: Callable[[NDArray[np.uint8]], Tensor],
    words: Words,
    compress: Compress | None = None,
    size_bias: bool = True,
) -> list[str]:
    """The model's answer to each question; `see` encodes pictures to features [B, N, Dv]."""
    said: list[str] = []
    for start in range(0, len(drawn.asked), _BATCH):
        part = slice(start, start + _BATCH)
        which, inverse = np.unique(drawn.scene[part], return_inverse=True)
        features = see(drawn.pixels[which])
        kept = torch.arange(features.shape[1]).expand(len(features), -1)
        bias = torch.zeros(kept.shape)
        if compress is not None:
            features, kept, sizes = compress(features)
            bias = sizes.float().log() if size_bias else torch.zeros(kept.shape)
        tokens = model.projector(features)
        ids, last = torch.from_numpy(drawn.ids[part]), torch.from_numpy(drawn.last[part])
        rows = generate(model, ids, last, tokens[inverse], kept[inverse], bias[inverse])
        said += [words.detokenize(row) for row in rows.tolist()]
    return said


def by_kind(drawn: QuestionSet, said: Sequence[str], kinds: Sequence[str]) -> dict[str, float]:
    """The share of right answers over all, ``accuracy``, and of each kind of question."""
    right = [one == question.answer for one, question in zip(said, drawn.asked, strict=True)]
    shares = {"accuracy": float(np.mean(right))}
    for kind in kinds:
        shares[kind] = float(np.mean([ok for ok, one in zip(right, drawn.asked, strict=True) if one.kind == kind]))
    return shares


def by_method(method: str, keep: int, grid: tuple[int, ...] = TinyVLMConfig().grid, **params: int) -> Compress:
    """A method's PyTorch reference as a `Compress`."""
    from ....graph_passes.reference import reference

    def compress(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = reference(method, features, keep=keep, params=params, grid=grid)
        return found.tokens, found.kept_indices, found.sizes

    return compress


def main() -> None:
    """Command line: the shipped weights uncompressed, merged with and without the size bias, at random, in blocks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=8192)
    parser.add_argument("--keep", type=int, default=21)
    parser.add_argument("--seeds", type=int, default=10, help="of random")
    asked = parser.parse_args()
    model = load()
    print("uncompressed", evaluate(model, asked.questions), flush=True)
    for bias in (False, True):
        found = evaluate(model, asked.questions, compress=by_method("kcenter_merge", asked.keep), size_bias=bias)
        print(f"kcenter_merge {asked.keep} bias {bias}", found, flush=True)
    chances = [by_method("random", asked.keep, seed=seed) for seed in range(asked.seeds)]
    right = [evaluate(model, asked.questions, compress=chance)["accuracy"] for chance in chances]
    print(f"random {asked.keep}: mean {np.mean(right):.4f}, deviation {np.std(right):.4f}, {asked.seeds} seeds")
    blocks = model.config.tokens // BLOCK**2
    model.projector = load_wide_projector(model.config)
    print(f"pixel_unshuffle {blocks}", evaluate(model, asked.questions, compress=by_method("pixel_unshuffle", blocks)))


if __name__ == "__main__":
    main()
