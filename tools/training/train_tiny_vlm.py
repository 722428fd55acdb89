"""Trains the shipped weights: `python tools/training/train_tiny_vlm.py --out FILE`.

Every worker draws its scenes from (seed, step, worker), so a run that was stopped and resumed sees the same data. Two
auxiliary losses teach the encoder: each patch classifies the object that covers it, CLS the objects in the image.
Without the first, training gets stuck at half of the answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from lessons_tiny_vlm import ASKED, IGNORED, SLOT, draw
from tokexport.exporter.zoo.decoding import MASKED
from tokexport.exporter.zoo.tiny_vlm.layers import TinyVLMConfig
from tokexport.exporter.zoo.tiny_vlm.model import TinyVLM
from tokexport.exporter.zoo.tiny_vlm.scenes import pixel_values
from tokexport.exporter.zoo.tiny_vlm.text import BOS, COLOURS, SHAPES
from torch import Tensor, nn
from torch.nn import functional as F
from training import request
from workers import WORKERS, Batch, train


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a run; the defaults are those of the shipped weights."""

    steps: int = 5500
    alone: int = 1300  # first steps of the encoder without the decoder: cheap, and the decoder learns nothing before
    images: int = 32
    rate: float = 2e-3
    warmup: int = 200
    decay: float = 0.05
    patch_weight: float = 0.5
    cls_weight: float = 0.2
    seed: int = 1

    def trainee(self) -> Trainee:
        """See `Course`."""
        return Trainee()

    def batch(self, step: int, worker: int) -> Batch:
        """See `Course`."""
        arrays = draw((self.seed, step, worker), self.images // WORKERS)
        arrays["pixels"] = pixel_values(arrays["pixels"])
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, trainee: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Course`."""
        assert isinstance(trainee, Trainee)
        return trainee(batch, self, alone=step < self.alone)


def packed_layout(config: TinyVLMConfig, asked: int, slot: int, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Positions int64 [1, S] and mask [1, 1, S, S] of an image and questions of `slot` words, masked from each other.

    The image has all its tokens, or those with the positions `kept` [K].
    """
    image = torch.arange(config.tokens) if kept is None else kept
    text = config.offset + config.tokens + torch.arange(slot).repeat(asked)
    positions = torch.cat([torch.arange(config.offset), config.offset + image, text])
    prefix = torch.full((config.offset + len(image),), -1)
    group = torch.cat([prefix, torch.arange(asked).repeat_interleave(slot)])
    visible = (group[:, None] == group[None]) | (group[None] == -1)
    mask = torch.where(visible.tril(), 0.0, MASKED)
    return positions[None], mask[None, None]


def grid_waves(config: TinyVLMConfig) -> Tensor:
    """Sines and cosines of row and column [N, Dv]: an initialisation in which neighbours are near each other."""
    quarter = config.vision_dim // 4
    frequency = 10.0 ** (-2 * torch.arange(quarter) / quarter) * 2
    row, column = torch.meshgrid(*(torch.arange(size) for size in config.grid), indexing="ij")
    angles = [axis.flatten()[:, None] * frequency for axis in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)


def answer_loss(model: TinyVLM, batch: Batch, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of the answers to packed questions after visual tokens [B, K, D]; see `packed_layout`."""
    ids = batch["ids"].flatten(1)
    bos = torch.full((len(ids), model.config.offset), BOS)
    embeds = model.splice(torch.cat([bos, ids], 1), tokens)
    logits = model.decoder(embeds, positions, mask)[:, -ids.shape[1] :]
    return F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED)


@torch.no_grad()
def initialise(model: TinyVLM) -> None:
    """Small outputs of every block, small embeddings, and positions in which neighbours are near each other."""
    depth = 2 * (model.config.vision_layers + model.config.layers)
    for name, weight in model.named_parameters():
        if name.endswith(("out_proj.weight", "fc2.weight", "down.weight")):
            nn.init.normal_(weight, std=0.1 / math.sqrt(depth))
        elif name.endswith("embedding.weight"):
            nn.init.normal_(weight, std=0.1)
    model.vision.positions[:, 1:].copy_(0.5 * grid_waves(model.config))


class Trainee(nn.Module):
    """The model with the heads that exist only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TinyVLM()
        config = self.model.config
        self.patch_head = nn.Linear(config.vision_dim, len(COLOURS) + 1 + len(SHAPES))
        self.cls_head = nn.Linear(config.vision_dim, len(COLOURS) * len(SHAPES))
        self.positions, self.mask = packed_layout(config, ASKED, SLOT)
        initialise(self.model)

    def forward(self, batch: Batch, recipe: Recipe, alone: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss and its parts; `alone` leaves the decoder out."""
        model = self.model
        seen = model.vision(batch["pixels"])
        colour, shape = self.patch_head(seen[:, 1:]).split([len(COLOURS) + 1, len(SHAPES)], -1)
        colour = F.cross_entropy(colour.flatten(0, 1), batch["patches"][..., 0].flatten(), ignore_index=IGNORED)
        shape = F.cross_entropy(shape.flatten(0, 1), batch["patches"][..., 1].flatten(), ignore_index=IGNORED)
        cls = F.binary_cross_entropy_with_logits(self.cls_head(seen[:, 0]), batch["present"])
        parts = {"colour": colour, "shape": shape, "cls": cls}
        loss = recipe.patch_weight * (colour + shape) + recipe.cls_weight * cls
        if alone:
            return loss, parts
        answer = answer_loss(model, batch, model.projector(seen[:, 1:]), self.positions, self.mask)
        return loss + answer, {**parts, "answer": answer}


def main() -> None:
    """Command line."""
    given = request(__doc__, Recipe.steps, Recipe.rate)
    train(given.out, Recipe(steps=given.steps, rate=given.rate))


if __name__ == "__main__":
    main()
