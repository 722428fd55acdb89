"""Trains the shipped weights: `python -m tokexport.exporter.zoo.tiny_vlm.train --out FILE`.

Every worker draws its scenes from (seed, step, worker), so a run that was stopped and resumed sees the same data. Two
losses besides the answers teach the encoder: each patch names what covers it, CLS names what is in the image. Without
the first, an earlier model of this kind stuck at half of the answers.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from ..decoding import MASKED
from ..training import Sittings, adamw, cosine_rate
from .layers import TinyVLMConfig
from .lessons import ASKED, IGNORED, SLOT, draw
from .model import TinyVLM
from .scenes import pixel_values
from .text import BOS, COLOURS, SHAPES

WORKERS = 2  # processes of one thread: they wait for each other once a step, not after every operator
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """What a run does; the defaults made the shipped weights."""

    steps: int = 5500
    alone: int = 1300  # first steps of the encoder without the decoder: cheap, and the decoder learns nothing before
    images: int = 32
    rate: float = 2e-3
    warmup: int = 200
    decay: float = 0.05
    patch_weight: float = 0.5
    cls_weight: float = 0.2
    seed: int = 1


def packed_layout(config: TinyVLMConfig, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Positions int64 [1, S] and mask [1, 1, S, S] of one image with ASKED questions that do not see each other.

    The image is all its tokens, or those that inherit the positions kept [K].
    """
    image = torch.arange(config.tokens) if kept is None else kept
    text = config.offset + config.tokens + torch.arange(SLOT).repeat(ASKED)
    positions = torch.cat([torch.arange(config.offset), config.offset + image, text])
    prefix = torch.full((config.offset + len(image),), -1)
    group = torch.cat([prefix, torch.arange(ASKED).repeat_interleave(SLOT)])
    visible = (group[:, None] == group[None]) | (group[None] == -1)
    mask = torch.where(visible.tril(), 0.0, MASKED)
    return positions[None], mask[None, None]


def grid_waves(config: TinyVLMConfig) -> Tensor:
    """Sines and cosines of row and column [N, Dv]: a start from which neighbours find each other at once."""
    quarter = config.vision_dim // 4
    frequency = 10.0 ** (-2 * torch.arange(quarter) / quarter) * 2
    row, column = torch.meshgrid(*(torch.arange(size) for size in config.grid), indexing="ij")
    angles = [axis.flatten()[:, None] * frequency for axis in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)


def answer_loss(model: TinyVLM, batch: Batch, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of the answers to the packed questions behind visual tokens [B, K, D], laid out by both tables."""
    ids = batch["ids"].flatten(1)
    bos = torch.full((len(ids), model.config.offset), BOS)
    embeds = model.splice(torch.cat([bos, ids], 1), tokens)
    logits = model.decoder(embeds, positions, mask)[:, -ids.shape[1] :]
    return F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED)


class Trainee(nn.Module):
    """The model with the heads that exist only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TinyVLM()
        config = self.model.config
        self.patch_head = nn.Linear(config.vision_dim, len(COLOURS) + 1 + len(SHAPES))
        self.cls_head = nn.Linear(config.vision_dim, len(COLOURS) * len(SHAPES))
        self.positions, self.mask = packed_layout(config)
        depth = 2 * (config.vision_layers + config.layers)
        for name, weight in self.model.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight", "down.weight")):
                nn.init.normal_(weight, std=0.1 / math.sqrt(depth))
            elif name.endswith("embedding.weight"):
                nn.init.normal_(weight, std=0.1)
        with torch.no_grad():
            self.model.vision.positions[:, 1:].copy_(0.5 * grid_waves(config))

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


def average(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the workers, in one exchange."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient) / WORKERS)


def work(rank: int, out: Path, recipe: Recipe, meeting: str) -> None:
    """Train to the end of the recipe, from the newest checkpoint if `out` has one beside it; worker 0 writes."""
    launcher = os.getppid()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    torch.manual_seed(recipe.seed)
    trainee = Trainee()
    parameters = list(trainee.parameters())
    optimizer = adamw(parameters, recipe.decay)
    sittings = Sittings(trainee, optimizer, out, every=100)
    # Nobody may write the next checkpoint before everybody has read this one.
    dist.barrier()
    for step in range(sittings.start, recipe.steps):
        # A worker that outlived its launcher would go on writing over the next run's checkpoint.
        if os.getppid() != launcher:
            raise SystemExit("the launcher of this training is gone")
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(recipe.rate, recipe.warmup, recipe.steps, step)
        arrays = draw((recipe.seed, step, rank), recipe.images // WORKERS)
        arrays["pixels"] = pixel_values(arrays["pixels"])
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        loss, parts = trainee(batch, recipe, alone=step < recipe.alone)
        optimizer.zero_grad()
        loss.backward()
        average(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if rank:
            continue
        sittings.log(step + 1, parts)
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            sittings.keep(step + 1)


def train(out: Path, recipe: Recipe) -> None:
    """Run the workers of one training to its end."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (out, recipe, f"{folder}/meeting"), nprocs=WORKERS)


def request(description: str | None, steps: int, rate: float) -> argparse.Namespace:
    """What was typed behind a training script: out, steps and rate, the last two with their defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write; its checkpoint lies beside")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rate", type=float, default=rate)
    return parser.parse_args()


def main() -> None:
    """Command line."""
    given = request(__doc__, Recipe.steps, Recipe.rate)
    train(given.out, Recipe(steps=given.steps, rate=given.rate))


if __name__ == "__main__":
    main()
