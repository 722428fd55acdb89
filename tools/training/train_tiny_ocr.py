"""Trains the shipped weights: `python tools/training/train_tiny_ocr.py --out FILE`.

Every worker draws its pictures from (seed, step, worker), so a run that was stopped and resumed sees the same data.
Auxiliary losses teach what to read: after the encoder each patch classifies the colour, the digit, and the place of
that digit in its number; and one head of the second block of the decoder is to attend, before each digit, to the
patches that show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lessons_tiny_ocr import MOST, SLOT, draw
from tokexport.exporter.zoo.tiny_ocr.model import TinyOCR
from tokexport.exporter.zoo.tiny_ocr.text import BOS, DIGITS
from tokexport.exporter.zoo.tiny_vlm.scenes import pixel_values
from tokexport.exporter.zoo.tiny_vlm.text import COLOURS
from torch import Tensor, nn
from train_tiny_video import cross_entropy
from train_tiny_vlm import initialise, packed_layout
from training import request
from workers import WORKERS, Batch, train

_CLASSES = (len(COLOURS) + 1, len(DIGITS), 4)
_READS = 1  # the block of the decoder with the head that is taught


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a run."""

    steps: int = 2250
    alone: int = 700  # first steps of the encoder without the decoder: cheap, and the decoder learns nothing before
    pictures: int = 16
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.05
    patch_weight: float = 0.3
    look_weight: float = 0.2
    seed: int = 1

    def trainee(self) -> Trainee:
        """See `Course`."""
        return Trainee()

    def batch(self, step: int, worker: int) -> Batch:
        """See `Course`."""
        arrays = draw((self.seed, step, worker), self.pictures // WORKERS)
        arrays["pixels"] = pixel_values(arrays["pixels"])
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, trainee: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Course`."""
        assert isinstance(trainee, Trainee)
        parts = trainee(batch, alone=step < self.alone)
        patches = self.patch_weight * (parts["colour"] + parts["digit"] + parts["place"])
        if "answer" not in parts:
            return patches, parts
        return parts["answer"] + patches + self.look_weight * parts["look"], parts


class Trainee(nn.Module):
    """The model with the heads that exist only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TinyOCR()
        config = self.model.config
        self.patch_head = nn.Linear(config.vision_dim, sum(_CLASSES))
        self.positions, self.mask = packed_layout(config, MOST, SLOT)
        initialise(self.model)

    def forward(self, batch: Batch, alone: bool = False) -> dict[str, Tensor]:
        """The losses by name; `alone` leaves the decoder out."""
        model = self.model
        seen = model.vision(batch["pixels"])[:, 1:]
        heads = self.patch_head(seen).split(_CLASSES, -1)
        names = ("colour", "digit", "place")
        parts = {
            name: cross_entropy(head, batch["patches"][..., n]) for n, (name, head) in enumerate(zip(names, heads))
        }
        return parts if alone else parts | self._read(model.projector(seen), batch)

    def _read(self, tokens: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The losses of the decoder on visual tokens [B, N, D]."""
        model, config = self.model, self.model.config
        ids = batch["ids"].flatten(1)
        x = model.splice(torch.cat([torch.full((len(ids), config.offset), BOS), ids], 1), tokens)
        cos, sin = model.decoder.rotary(self.positions)
        looks = torch.zeros(())
        for number, layer in enumerate(model.decoder.blocks):
            query, key, value = layer.qkv(x, cos, sin)
            if number == _READS:
                image = key[:, 0, config.offset : config.offset + config.tokens]
                logits = query[:, 0, -ids.shape[1] :] @ image.transpose(1, 2) * query.shape[-1] ** -0.5
                looks = looked(logits, batch["shown"].flatten(1, 2))
            x = layer.attend(x, query, key, value, self.mask)
        logits = model.decoder.logits(x[:, -ids.shape[1] :])
        return {"answer": cross_entropy(logits, batch["targets"].flatten(1)), "look": looks}


def looked(logits: Tensor, shown: Tensor) -> Tensor:
    """Minus the log of the share of attention on the patches that are shown, mean over the words that have some.

    Args:
        logits: of attention from words to patches, [B, T, N].
        shown: bool [B, T, N].
    """
    asked = shown.any(-1)
    whole, right = logits[asked], shown[asked]
    return (whole.logsumexp(-1) - whole.masked_fill(~right, -torch.inf).logsumexp(-1)).mean()


def main() -> None:
    """Command line."""
    given = request(__doc__, Recipe.steps, Recipe.rate)
    train(given.out, Recipe(steps=given.steps, rate=given.rate))


if __name__ == "__main__":
    main()
