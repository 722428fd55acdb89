"""Trains the shipped weights: `python tools/training/train_tiny_video.py --out FILE`.

It starts from the weights of tiny-vlm. Every worker draws its clips from (seed, step, worker), so a run that was
stopped and resumed sees the same data. Auxiliary losses teach what to attend to. After the encoder, each patch
classifies the thing that covers it. After the first block of the decoder, which can attend to earlier frames, it
classifies what happens there now; after the second, what has happened so far, and when.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lessons_tiny_video import ASKED, EVENTS, GROUND, RESTS, SLOT, draw
from lessons_tiny_vlm import IGNORED
from tokexport.exporter.zoo.tiny_video.clips import FRAMES, clip_values
from tokexport.exporter.zoo.tiny_video.model import TinyVideo
from tokexport.exporter.zoo.tiny_video.text import BOS, VOCABULARY
from tokexport.exporter.zoo.tiny_vlm import model as still
from tokexport.exporter.zoo.tiny_vlm.layers import TinyVLMConfig
from tokexport.exporter.zoo.tiny_vlm.text import COLOURS, SHAPES
from tokexport.exporter.zoo.tiny_vlm.text import WORD_TO_ID as STILL_WORDS
from torch import Tensor, nn
from torch.nn import functional as F
from train_tiny_vlm import packed_layout
from training import request
from workers import WORKERS, Batch, train


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a run; the shipped weights are of a shorter one (README.md)."""

    steps: int = 6000
    clips: int = 16
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.05
    look_weight: float = 0.3
    time_weight: float = 0.3
    seed: int = 1

    def trainee(self) -> Trainee:
        """See `Course`."""
        return Trainee()

    def batch(self, step: int, worker: int) -> Batch:
        """See `Course`."""
        arrays = draw((self.seed, step, worker), self.clips // WORKERS)
        arrays["pixels"] = clip_values(arrays["pixels"])
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, trainee: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Course`."""
        parts = trainee(batch)
        looks = parts["colour"] + parts["shape"]
        times = parts["event"] + parts["story"] + parts["began"] + parts["ended"]
        return parts["answer"] + self.look_weight * looks + self.time_weight * times, parts


class Trainee(nn.Module):
    """The model with the heads that exist only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TinyVideo()
        config = self.model.config
        self.look_head = nn.Linear(config.vision_dim, len(COLOURS) + 1 + len(SHAPES))
        self.event_head = nn.Linear(config.dim, EVENTS)
        self.story_head = nn.Linear(config.dim, EVENTS + 2 * FRAMES)
        self.positions, self.mask = packed_layout(config, ASKED, SLOT)
        # Nine tenths of all patches are background, and most others show things at rest.
        self.event_share = torch.ones(EVENTS)
        self.event_share[GROUND], self.event_share[RESTS] = 0.2, 0.5
        warm_start(self.model)
        look_back(self.model)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses by name."""
        model, config = self.model, self.model.config
        seen = model.vision(batch["pixels"])
        colour, shape = self.look_head(seen).split([len(COLOURS) + 1, len(SHAPES)], -1)
        ids = batch["ids"].flatten(1)
        bos = torch.full((len(ids), config.offset), BOS)
        x = model.splice(torch.cat([bos, ids], 1), model.projector(seen))
        cos, sin = model.decoder.rotary(self.positions)
        after_block: list[Tensor] = []
        for layer in model.decoder.blocks:
            x = layer.attend(x, *layer.qkv(x, cos, sin), self.mask)
            after_block.append(x[:, config.offset : config.offset + config.tokens])
        logits = model.decoder.logits(x[:, -ids.shape[1] :])
        story, began, ended = self.story_head(after_block[1]).split([EVENTS, FRAMES, FRAMES], -1)
        return {
            "answer": cross_entropy(logits, batch["targets"]),
            "colour": cross_entropy(colour, batch["looks"][..., 0]),
            "shape": cross_entropy(shape, batch["looks"][..., 1]),
            "event": cross_entropy(self.event_head(after_block[0]), batch["events"], self.event_share),
            "story": cross_entropy(story, batch["stories"], self.event_share),
            "began": cross_entropy(began, batch["moments"][..., 0]),
            "ended": cross_entropy(ended, batch["moments"][..., 1]),
        }


def cross_entropy(logits: Tensor, target: Tensor, share: Tensor | None = None) -> Tensor:
    """Mean over the targets that are not IGNORED, 0 without any: logits [..., C], target [...], shares [C]."""
    loss = F.cross_entropy(logits.flatten(0, -2), target.flatten(), share, ignore_index=IGNORED)
    return loss if bool((target != IGNORED).any()) else torch.zeros(())


def time_waves(config: TinyVLMConfig) -> Tensor:
    """Sines and cosines of the frame [T, 1, Dv]: an initialisation in which the same place a frame earlier is near."""
    half = config.vision_dim // 2
    angles = torch.arange(config.frames)[:, None] * 2.0 * 16.0 ** (-torch.arange(half) / half)
    return torch.cat([angles.sin(), angles.cos()], 1)[:, None]


def warm_start(model: TinyVideo) -> None:
    """Copy weights of tiny-vlm: all of equal shape, the centre of its positions, the words that both have."""
    known = still.load()
    weights = model.state_dict()
    weights |= {name: value for name, value in known.state_dict().items() if value.shape == weights[name].shape}
    rows, columns = known.config.grid
    high, wide = model.config.grid
    top, left = (rows - high) // 2, (columns - wide) // 2
    old = known.vision.positions.detach()
    middle = old[:, 1:].unflatten(1, (rows, columns))[:, top : top + high, left : left + wide].flatten(1, 2)
    weights["vision.positions"] = torch.cat([old[:, :1], middle], 1)
    weights["vision.times"] = 0.2 * time_waves(model.config)
    words = weights["decoder.embedding.weight"] * 0.1
    for number, word in enumerate(VOCABULARY):
        if word in STILL_WORDS:
            words[number] = known.decoder.embedding.weight.detach()[STILL_WORDS[word]]
    weights["decoder.embedding.weight"] = words
    model.load_state_dict(weights)


@torch.no_grad()
def look_back(model: TinyVideo, head: int = 1, seed: int = 0) -> None:
    """Initialise one head of the first decoder block to attend to the same place a frame earlier, whatever is there.

    Otherwise training must find a sharp peak of the rotary embedding at one distance before it can detect motion.
    Queries and keys of the head become nearly constant: a linear map, fitted to output 1 for visual tokens, times a
    vector whose rotated product is largest at a distance of one frame.
    """
    config, layer = model.config, model.decoder.blocks[0]
    drawn = torch.from_numpy(clip_values(draw((0, seed), 32)["pixels"]))
    tokens = layer.norm1(model.encode(drawn)).flatten(0, 1)
    moments = tokens.T @ tokens / len(tokens) + 1e-3 * torch.eye(config.dim)
    one = torch.linalg.solve(moments, tokens.mean(0))
    half = config.head_dim // 2
    frequency = config.rope_theta ** (-torch.arange(half) / half)
    strength = torch.where(torch.arange(half) < half // 2, 5.0, 0.0)
    turned = config.places * frequency
    rows = slice(head * config.head_dim, (head + 1) * config.head_dim)
    layer.q_proj.weight[rows] = torch.cat([strength * turned.cos(), -strength * turned.sin()])[:, None] * one
    layer.k_proj.weight[rows] = torch.cat([strength, torch.zeros(half)])[:, None] * one


def main() -> None:
    """Command line."""
    given = request(__doc__, Recipe.steps, Recipe.rate)
    train(given.out, Recipe(steps=given.steps, rate=given.rate))


if __name__ == "__main__":
    main()
