"""Asks tiny-vlm fresh questions in PyTorch, with or without a compressor between the encoder and the projector."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..decoding import greedy
from .layers import TinyVLMConfig
from .model import BLOCK, Decode, Embed, Prefill, TinyVLM, load, load_wide_projector
from .questions import KINDS, questions
from .scenes import pixel_values, scene
from .text import EOS, PAD, detokenize, prompt

# (features [B, N, Dv], cls_attention [B, N]) -> tokens [B, K, Dv], kept_indices int64 [B, K], sizes float32 [B, K]
Compress = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

# Training draws from (1, step): a first word of its own keeps every evaluation seed apart from all of them.
_STREAM = 0x7E57
_ASKED = 2
_BATCH = 128


@dataclass(frozen=True)
class Exam:
    """Questions with answers: pixels uint8 [S, 96, 96, 3], covered bool [S, 144]; scene, ids, last per question."""

    pixels: NDArray[np.uint8]
    covered: NDArray[np.bool_]
    scene: NDArray[np.int64]
    ids: NDArray[np.int64]
    last: NDArray[np.int64]
    answers: list[str]
    kinds: list[str]


@lru_cache(maxsize=4)
def exam(n: int, seed: int, length: int = 16) -> Exam:
    """Draw `n` questions, two on each scene, that no training step has seen."""
    rng = np.random.default_rng([_STREAM, seed])
    drawn = [scene(rng) for _ in range(-(-n // _ASKED))]
    asked = [(index, question) for index, item in enumerate(drawn) for question in questions(item, rng, _ASKED)][:n]
    prompts = [prompt(question.text, length) for _, question in asked]
    return Exam(
        np.stack([item.image for item in drawn]),
        np.stack([item.covered for item in drawn]),
        np.array([index for index, _ in asked]),
        np.array([ids for ids, _ in prompts]),
        np.array([last for _, last in prompts]),
        [question.answer for _, question in asked],
        [question.kind for _, question in asked],
    )


@torch.inference_mode()
def generate(
    model: TinyVLM, ids: Tensor, last: Tensor, tokens: Tensor, kept_indices: Tensor, token_bias: Tensor
) -> Tensor:
    """Greedy answers int64 [B, <= max_new] behind the prompts, as the exported graphs produce them.

    ids [B, P] and last [B] int64 (index in the prompt), tokens [B, K, D], kept_indices [B, K] int64, token_bias [B, K].
    """
    keep = tokens.shape[1]
    index = last + keep
    prefill, decode = Prefill(model, keep), Decode(model, keep)
    logits, *cache = prefill(Embed(model)(ids, tokens), kept_indices, token_bias, index)

    def follow(word: Tensor, said: int) -> Tensor:
        nonlocal cache
        logits, *cache = decode(word, index + said, token_bias, *cache)
        return logits

    return greedy(logits, follow, model.config.max_new, pad=PAD, eos=EOS)


@torch.inference_mode()
def evaluate(
    model: TinyVLM, n: int = 8192, seed: int = 0, compress: Compress | None = None, size_bias: bool = True
) -> dict[str, float]:
    """Share of answers that match in full, over all and by kind; `compress` runs behind the encoder, CLS dropped.

    Where it widens the tokens, the projector of `model` must be the one for that.
    """
    paper = exam(n, seed, model.config.prompt_length)
    right: list[bool] = []
    for start in range(0, len(paper.answers), _BATCH):
        part = slice(start, start + _BATCH)
        which, inverse = np.unique(paper.scene[part], return_inverse=True)
        hidden, attention = model.vision.with_cls_attention(torch.from_numpy(pixel_values(paper.pixels[which])))
        features = hidden[:, 1:]
        kept = torch.arange(features.shape[1]).expand(len(features), -1)
        bias = torch.zeros(kept.shape)
        if compress is not None:
            features, kept, sizes = compress(features, attention)
            bias = sizes.float().log() if size_bias else torch.zeros(kept.shape)
        tokens = model.projector(features)
        ids, last = torch.from_numpy(paper.ids[part]), torch.from_numpy(paper.last[part])
        said = generate(model, ids, last, tokens[inverse], kept[inverse], bias[inverse])
        right += [detokenize(row) == answer for row, answer in zip(said.tolist(), paper.answers[part], strict=True)]
    result = {"accuracy": float(np.mean(right))}
    for kind in KINDS:
        result[kind] = float(np.mean([ok for ok, of in zip(right, paper.kinds, strict=True) if of == kind]))
    return result


def by_method(method: str, keep: int, **params: int) -> Compress:
    """A method's PyTorch reference as a `Compress`."""
    from ....graph_passes.reference import reference

    def compress(features: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = reference(method, features, keep=keep, params=params, grid=TinyVLMConfig().grid)
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
