"""Trains the second projector: `python tools/training/train_tiny_vlm_projector.py --out FILE`.

The second projector reads blocks of 2 x 2 patches (`pixel_unshuffle`), between the shipped vision tower and decoder,
which are frozen. It is initialised to the mean of the first projector's outputs for the four patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from lessons_tiny_vlm import ASKED, SLOT, draw
from tokexport.exporter.zoo.tiny_vlm.model import BLOCK, TinyVLM, load, wide_projector
from tokexport.exporter.zoo.tiny_vlm.scenes import pixel_values
from tokexport.graph_passes.compressors import Case, make
from torch import Tensor, nn
from train_tiny_vlm import answer_loss, packed_layout
from training import Training, adamw, cosine_rate, request
from workers import Batch

STREAM = 0x9207  # a seed of its own: neither the first training nor an evaluation has seen these scenes


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a run; the defaults are those of the shipped weights."""

    steps: int = 1500
    images: int = 32
    rate: float = 1e-3
    warmup: int = 100
    decay: float = 0.01


class Blocks(nn.Module):
    """The projector that is trained, as `model`, between the two frozen parts."""

    def __init__(self) -> None:
        super().__init__()
        # Not a submodule: frozen weights need not be in checkpoints.
        self.frozen = (load().requires_grad_(False),)
        config = self.frozen[0].config
        self.compressor = make("pixel_unshuffle", {"r": BLOCK})
        self.case = Case(config.tokens, config.vision_dim, config.tokens // BLOCK**2, grid=config.grid)
        kept = self.compressor.reference(self.case, torch.zeros(1, config.tokens, config.vision_dim)).kept_indices[0]
        self.positions, self.mask = packed_layout(config, ASKED, SLOT, kept)
        self.model = wide_projector(config)
        four_means(self.model, self.frozen[0])

    def forward(self, batch: Batch) -> Tensor:
        """The loss of the answers."""
        with torch.no_grad():
            features = self.frozen[0].vision(batch["pixels"])[:, 1:]
        blocks = self.compressor.reference(self.case, features).tokens
        return answer_loss(self.frozen[0], batch, self.model(blocks), self.positions, self.mask)


def four_means(wide: nn.Sequential, model: TinyVLM) -> None:
    """Initialise `wide` to the mean of the outputs of the projector of `model` for the patches of a block."""
    patches = BLOCK**2
    one = model.projector.state_dict()
    wide.load_state_dict(
        {
            "0.weight": torch.block_diag(*[one["0.weight"]] * patches),
            "0.bias": one["0.bias"].repeat(patches),
            "2.weight": one["2.weight"].repeat(1, patches) / patches,
            "2.bias": one["2.bias"],
        }
    )


def train(out: Path, recipe: Recipe) -> None:
    """Train to the end of the recipe, from the newest checkpoint if `out` has one beside it."""
    torch.set_num_threads(1)
    trainee = Blocks()
    optimizer = adamw(list(trainee.parameters()), recipe.decay)
    training = Training(trainee, optimizer, out, every=50)
    for step in range(training.start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(recipe.rate, recipe.warmup, recipe.steps, step)
        arrays = draw((STREAM, step), recipe.images)
        arrays["pixels"] = pixel_values(arrays["pixels"])
        loss = trainee({name: torch.from_numpy(array) for name, array in arrays.items()})
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        training.log(step + 1, {"answer": loss})
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            training.keep(step + 1)


def main() -> None:
    """Command line."""
    given = request(__doc__, Recipe.steps, Recipe.rate)
    train(given.out, Recipe(steps=given.steps, rate=given.rate))


if __name__ == "__main__":
    main()
