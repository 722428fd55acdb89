"""Trains the shipped weights: `python tools/training/train_tiny_asr.py --out FILE --pool FILE`.

The clean utterances are spoken once and kept in the pool file, because espeak-ng takes longer than a training step.
Every step draws from (seed, step) its utterances, their place in the window, loudness and noise. It also draws a
playback speed, which shifts pitch and formants too, and replaces voices that espeak-ng does not have.
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokexport.exporter.zoo.tiny_asr.model import TinyASR
from tokexport.exporter.zoo.tiny_asr.speech import SOUND, VOICES, Speech, place, speak
from tokexport.exporter.zoo.tiny_asr.text import BOS, DIGITS, EOS, PAD, tokenize
from tokexport.runtimes.media.log_mel import log_mel
from torch import Tensor, nn
from torch.nn import functional as F
from training import Training, adamw, cosine_rate

_STREAM = 0x7A1C
_SPEAKERS = 2  # threads that wait for espeak-ng
_IGNORED = -100
_FIRST_DIGIT = EOS + 1  # in the vocabulary; the CTC head has the blank at 0 and the digits from 1
_TAPE = 1.15
_MASKED_MELS = 12


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a run; the defaults are those of the shipped weights."""

    utterances: int = 8000
    steps: int = 3500
    batch: int = 32
    rate: float = 2e-3
    warmup: int = 300
    decay: float = 0.05
    ctc_weight: float = 0.5
    seed: int = 1


class Trainee(nn.Module):
    """The model with the head that exists only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TinyASR()
        config = self.model.config
        self.ctc_head = nn.Linear(config.dim, 1 + len(DIGITS))
        depth = 2 * (config.encoder_layers + config.layers)
        for name, weight in self.model.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight")):
                nn.init.normal_(weight, std=0.1 / math.sqrt(depth))
            elif name.endswith("embedding.weight"):
                nn.init.normal_(weight, std=0.1)

    def forward(self, features: Tensor, ids: Tensor, recipe: Recipe) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-mel [B, 80, 400] and ids int64 [B, T] (`<bos>`, words, `<eos>`, `<pad>`) -> the loss and its parts."""
        tokens = self.model.encoder(features)
        logits = self.model.decoder(ids[:, :-1], tokens)
        target = ids[:, 1:].masked_fill(ids[:, 1:] == PAD, _IGNORED)
        words = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=_IGNORED)
        said = ids >= _FIRST_DIGIT
        ctc = F.ctc_loss(
            self.ctc_head(tokens).log_softmax(-1).transpose(0, 1),
            ids[said] - _FIRST_DIGIT + 1,
            torch.full((len(ids),), tokens.shape[1]),
            said.sum(1),
        )
        return words + recipe.ctc_weight * ctc, {"words": words, "ctc": ctc}


def pool(path: Path, utterances: int) -> list[Speech]:
    """The clean utterances of training, spoken now unless `path` holds them already."""
    if not path.exists():
        with ThreadPoolExecutor(_SPEAKERS) as speakers:
            generators = (np.random.default_rng([_STREAM, index]) for index in range(utterances))
            spoken = list(speakers.map(lambda rng: speak(rng, VOICES), generators))
        samples = np.concatenate([np.round(item.waveform * 32767).astype(np.int16) for item in spoken])
        ends = np.cumsum([len(item.waveform) for item in spoken])
        np.savez(path, samples=samples, ends=ends, texts=[item.text for item in spoken])
    with np.load(path) as stored:
        clips = np.split(stored["samples"], stored["ends"][:-1])
        return [
            Speech(clip.astype(np.float32) / np.float32(32767), str(text), "")
            for clip, text in zip(clips, stored["texts"], strict=True)
        ]


def draw(speeches: list[Speech], recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """The batch of one step: log-mel [B, 80, 400], and ids int64 [B, T] as `Trainee` takes them."""
    rng = np.random.default_rng([_STREAM, recipe.seed, step])
    heard = [_tape(speeches[index], rng) for index in rng.integers(len(speeches), size=recipe.batch)]
    features = log_mel(np.stack([place(speech, rng).waveform for speech in heard]), SOUND)
    for spectrogram in features:
        width = rng.integers(_MASKED_MELS + 1)
        start = rng.integers(SOUND.mels - width + 1)
        spectrogram[start : start + width] = spectrogram.mean()
    ids = [[BOS, *tokenize(speech.text), EOS] for speech in heard]
    longest = max(map(len, ids))
    return torch.from_numpy(features), torch.tensor([row + [PAD] * (longest - len(row)) for row in ids])


def _tape(speech: Speech, rng: np.random.Generator) -> Speech:
    length = len(speech.waveform)
    played = min(int(length * _TAPE ** rng.uniform(-1, 1)), SOUND.samples)
    waveform = np.interp(np.linspace(0, length - 1, played), np.arange(length), speech.waveform)
    return Speech(waveform.astype(np.float32), speech.text, speech.voice)


def train(out: Path, speeches: list[Speech], recipe: Recipe) -> None:
    """Train to the end of the recipe, from the newest checkpoint if `out` has one beside it."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    trainee = Trainee()
    parameters = list(trainee.parameters())
    optimizer = adamw(parameters, recipe.decay)
    training = Training(trainee, optimizer, out, every=50)
    for step in range(training.start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(recipe.rate, recipe.warmup, recipe.steps, step)
        loss, parts = trainee(*draw(speeches, recipe, step), recipe)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        training.log(step + 1, parts)
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            training.keep(step + 1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="safetensors file to write; its checkpoint is beside it"
    )
    parser.add_argument("--pool", type=Path, required=True, help=".npz file of the utterances; spoken if not there")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--rate", type=float, default=Recipe.rate)
    given = parser.parse_args()
    recipe = Recipe(steps=given.steps, rate=given.rate)
    train(given.out, pool(given.pool, recipe.utterances), recipe)


if __name__ == "__main__":
    main()
