"""What is left of a CTC recogniser where a compressor removes frames: tiny-asr's encoder with a head of letters.

    python benchmarks/ctc_frames.py        a quarter of an hour on one core; needs espeak-ng

Encoder and head are trained here, 550 steps. Each row: words wrong of 300 utterances that no step has heard, with the
letters read from the slots in the order of their places, and with each frame reading the letter of its slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tokexport.exporter.zoo.tiny_asr.evaluate import question_set, words_right
from tokexport.exporter.zoo.tiny_asr.model import AudioEncoder, load
from tokexport.exporter.zoo.tiny_asr.speech import SOUND, Utterance, utterance
from tokexport.exporter.zoo.tiny_asr.text import DIGITS
from tokexport.graph_passes.reference import reference
from tokexport.runtimes.media.log_mel import log_mel
from torch import Tensor, nn
from torch.nn import functional as F

HEARD, ASKED, STEPS, BATCH, RATE = 2400, 300, 550, 16, 1.5e-3
# No stream of tiny-asr's own training or evaluation.
STREAM = 0xC7C
FRAMES = 200
KEPT = (100, 50)
BLANK = 0
LETTERS = " " + "".join(sorted({*"".join(DIGITS)}))
METHODS = ("uniform", "pool1d", "kcenter_merge", "two_scale", "a_tome", "tome", "folder")
OF_KEYS = ("a_tome", "tome")
SEEDS = 5


def features(heard: Sequence[Utterance]) -> Tensor:
    """[n, mels, frames]."""
    parts = [np.stack([one.waveform for one in heard[at : at + 50]]) for at in range(0, len(heard), 50)]
    return torch.cat([torch.from_numpy(log_mel(part, SOUND)) for part in parts])


def text_of(best: Iterable[int]) -> str:
    """The greedy text of one letter or blank a frame: repeats are one, blanks are none."""
    said, before = "", BLANK
    for letter in best:
        said += LETTERS[letter - 1] if letter not in (before, BLANK) else ""
        before = letter
    return " ".join(said.split())


def train(encoder: AudioEncoder, head: nn.Linear, heard: Sequence[Utterance]) -> None:
    """With one cycle of AdamW."""
    inputs = features(heard)
    texts = [torch.tensor([1 + LETTERS.index(letter) for letter in one.text]) for one in heard]
    weights = [*encoder.parameters(), *head.parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        drawn = torch.randint(len(heard), (BATCH,), generator=generator)
        wanted = [texts[i] for i in drawn]
        scores = head(encoder(inputs[drawn])).log_softmax(-1).transpose(0, 1)
        lengths = torch.full((BATCH,), FRAMES), torch.tensor([len(one) for one in wanted])
        loss = F.ctc_loss(scores, torch.cat(wanted), *lengths, blank=BLANK, zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: {loss.item():.3f}", flush=True)


def run(encoder: AudioEncoder, x: Tensor, layers: range, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """[B, n, D] through some layers, and the keys of the last one, averaged over its heads."""
    for number in layers:
        layer = encoder.layers[number]
        y = layer.norm1(x)
        key, value = layer.attention.keys(y)
        x = x + layer.attention(y, key, value, bias)
        x = x + layer.fc2(F.gelu(layer.fc1(layer.norm2(x))))
    return x, key.mean(1)


@torch.inference_mode()
def texts(
    encoder: AudioEncoder, head: nn.Linear, inputs: Tensor, behind: int, method: str, keep: int, **params: int
) -> tuple[list[str], list[str]]:
    """Of every input, with the compressor behind so many layers: read slot by slot, and frame by frame."""
    in_order, by_frame, layers = [], [], len(encoder.layers)
    for part in inputs.split(50):
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(part)))).transpose(1, 2) + encoder.positions
        x, keys = run(encoder, x, range(behind))
        x = encoder.norm(x) if behind == layers else x
        signals = {"keys": keys} if method in OF_KEYS else {}
        made = reference(method, x, keep=keep, params=params, **signals)
        x = made.tokens
        if behind < layers:
            x, _ = run(encoder, x, range(behind, layers), made.sizes.float().log()[:, None, None])
            x = encoder.norm(x)
        best = head(x).argmax(-1)
        in_order += [text_of(row) for row in best.gather(1, made.kept_indices.argsort(1)).tolist()]
        # A token that was removed reads the slot that is nearest in time.
        gaps = (made.kept_indices[:, None] - torch.arange(FRAMES)[None, :, None]).abs().argmin(2)
        by_frame += [text_of(row) for row in best.gather(1, made.assignment.where(made.assignment >= 0, gaps)).tolist()]
    return in_order, by_frame


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with ThreadPoolExecutor(2) as speakers:
        heard = [*speakers.map(lambda index: utterance(STREAM, index), range(HEARD))]
    encoder, asked = load().encoder, question_set(ASKED, 0)
    head = nn.Linear(encoder.norm.normalized_shape[0], 1 + len(LETTERS))
    train(encoder, head, heard)
    inputs, answers = features(asked), [one.text for one in asked]

    def wrong(behind: int, method: str, keep: int, **params: int) -> np.ndarray:
        found = texts(encoder, head, inputs, behind, method, keep, **params)
        return np.array([1 - words_right(said, answers) for said in found])

    print(f"every frame: {wrong(len(encoder.layers), 'uniform', FRAMES)[0]:.3f}")
    print("behind layer, method, frames kept: slot by slot, frame by frame")
    for behind in (len(encoder.layers), 2, 1):
        for method in METHODS:
            for keep in KEPT:
                print(behind, method, keep, *(f"{share:.3f}" for share in wrong(behind, method, keep)), flush=True)
        for keep in KEPT:
            shares = np.mean([wrong(behind, "random", keep, seed=seed) for seed in range(SEEDS)], 0)
            print(behind, f"random, {SEEDS} seeds", keep, *(f"{share:.3f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
