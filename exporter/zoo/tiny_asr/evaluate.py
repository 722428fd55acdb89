"""Transcribes fresh utterances with tiny-asr in PyTorch, with or without a compressor after the encoder.

`python -m tokexport.exporter.zoo.tiny_asr.evaluate`: the tables of the README.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....errors import MissingError
from ....runtimes.media.log_mel import log_mel
from ..decoding import greedy, write
from .model import Decode, Prefill, TinyASR, load
from .speech import HELD_OUT_VOICES, SOUND, VOICES, Utterance, utterance
from .text import BOS, EOS, PAD, detokenize

# tokens [B, N, D] -> tokens [B, K, D], sizes float32 [B, K]
Compress = Callable[[Tensor], tuple[Tensor, Tensor]]

# Training seeds begin with another word, so no evaluation repeats an utterance of training.
_STREAM = 0x7E57
_BATCH = 50
_SPEAKERS = 2
KEPT = (100, 50, 30, 20)


def question_set(n: int, seed: int, voices: tuple[str, ...] = VOICES) -> list[Utterance]:
    """`n` utterances that no training step has heard.

    Raises:
        MissingError: espeak-ng or soxr is not installed.
    """
    return _spoken(n, seed, voices)


# A default of the cached function would be another key than the same voices given.
@lru_cache(maxsize=4)
def _spoken(n: int, seed: int, voices: tuple[str, ...]) -> list[Utterance]:
    with ThreadPoolExecutor(_SPEAKERS) as speakers:
        return list(speakers.map(lambda index: utterance(_STREAM + (seed << 16), index, voices), range(n)))


def words_right(said: Sequence[str], answers: Sequence[str]) -> float:
    """1 - word error rate: insertions, deletions and substitutions over the number of words spoken, all utterances
    together; below 0 where more words are wrong than were spoken.

    Raises:
        MissingError: jiwer is not installed.
    """
    try:
        import jiwer
    except ImportError:
        raise MissingError("the word error rate needs jiwer", fix='pip install "tokexport[export]"') from None
    return 1 - float(jiwer.wer(list(answers), list(said)))


@torch.inference_mode()
def generate(model: TinyASR, tokens: Tensor, token_bias: Tensor) -> Tensor:
    """Greedy transcripts int64 [B, <= max_new], as the exported graphs produce them.

    tokens [B, K, D], token_bias [B, K].
    """
    config, layers = model.config, 2 * model.config.layers
    prefill, decode = Prefill(model), Decode(model)
    ids = torch.tensor([[BOS] + [PAD] * (config.prompt_length - 1)]).expand(len(tokens), -1)
    index = torch.zeros(len(tokens), dtype=torch.int64)
    logits, *caches = prefill(ids, tokens, token_bias, index)
    past, cross = caches[:layers], caches[layers:]

    def follow(word: Tensor, said: int) -> Tensor:
        logits, *new = decode(word, index + said, token_bias, *past, *cross)
        write(past, new, index + said)
        return logits

    return greedy(logits, follow, config.max_new, pad=PAD, eos=EOS)


@torch.inference_mode()
def encode(model: TinyASR, waveforms: NDArray[np.float32]) -> Tensor:
    """Sounds float32 [B, 64000] -> tokens [B, N, D]."""
    parts = [waveforms[start : start + _BATCH] for start in range(0, len(waveforms), _BATCH)]
    return torch.cat([model.encoder(torch.from_numpy(log_mel(part, SOUND))) for part in parts])


@torch.inference_mode()
def transcribe(model: TinyASR, tokens: Tensor, compress: Compress | None = None, size_bias: bool = True) -> list[str]:
    """The model's transcripts for tokens [B, N, D]; `compress` runs on them first."""
    said: list[str] = []
    for part in tokens.split(_BATCH):
        bias = torch.zeros(part.shape[:2])
        if compress is not None:
            part, sizes = compress(part)
            bias = sizes.float().log() if size_bias else torch.zeros(sizes.shape)
        said += [detokenize(row) for row in generate(model, part, bias).tolist()]
    return said


@lru_cache(maxsize=2)
def _tokens(model: TinyASR, n: int, seed: int, voices: tuple[str, ...]) -> Tensor:
    return encode(model, np.stack([heard.waveform for heard in question_set(n, seed, voices)]))


def evaluate(
    model: TinyASR,
    n: int = 1000,
    seed: int = 0,
    voices: tuple[str, ...] = VOICES,
    compress: Compress | None = None,
    size_bias: bool = True,
) -> float:
    """Share of words right on `n` fresh utterances of `voices`."""
    said = transcribe(model, _tokens(model, n, seed, voices), compress, size_bias)
    return words_right(said, [heard.text for heard in question_set(n, seed, voices)])


def by_method(method: str, keep: int, **params: Any) -> Compress:
    """A method's PyTorch reference as a `Compress`."""
    from ....graph_passes.reference import reference

    def compress(tokens: Tensor) -> tuple[Tensor, Tensor]:
        found = reference(method, tokens, keep=keep, params=params)
        return found.tokens, found.sizes

    return compress


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=1000, help="of each kind of voice")
    parser.add_argument("--seeds", type=int, default=10, help="of random")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, n = load(), asked.utterances
    for name, voices in {"voices of training": VOICES, "voices held out": HELD_OUT_VOICES}.items():
        print(f"{name}, uncompressed: {evaluate(model, n, voices=voices):.4f}", flush=True)
    for method, params in _ROWS:
        for bias in (False, True) if method in ("apet", "kcenter_merge") else (False,):
            row = [evaluate(model, n, compress=by_method(method, k, **params), size_bias=bias) for k in KEPT]
            print(method, params, "with log(size)" if bias else "", *(f"{right:.3f}" for right in row), flush=True)
    for k in KEPT:
        row = [evaluate(model, n, compress=by_method("random", k, seed=seed)) for seed in range(asked.seeds)]
        print(f"random {k}: {np.mean(row):.3f} +- {np.std(row):.3f}", flush=True)


_ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("kcenter_merge", {}),
    ("apet", {}),
    ("apet", {"basis_slots": "none"}),
    ("uniform", {}),
    ("topk", {"score": "norm"}),
)


if __name__ == "__main__":
    main()
