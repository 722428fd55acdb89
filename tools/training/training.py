"""What the training scripts share: learning rate, optimizer, and checkpoints to resume from."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def cosine_rate(peak: float, warmup: int, steps: int, step: int) -> float:
    """Learning rate of a step: linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / warmup)
    return peak * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def adamw(parameters: list[nn.Parameter], decay: float) -> torch.optim.AdamW:
    """AdamW whose weight decay leaves norms, biases and other vectors alone."""
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def save(model: nn.Module, path: Path) -> None:
    """Write the weights as float16, atomically."""
    beside = path.with_suffix(".part")
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, beside)
    beside.replace(path)


class Training:
    """A training that can be stopped and resumed: the model with its training heads, its optimizer, and the log.

    Args:
        trainee: the module that is trained; `save` writes its attribute `model` to `out`.
        optimizer: of its parameters.
        out: safetensors file; the checkpoint is beside it.
        every: steps from one line of the log to the next.
    """

    def __init__(self, trainee: nn.Module, optimizer: torch.optim.Optimizer, out: Path, every: int) -> None:
        self.trainee, self.optimizer, self.out, self.every = trainee, optimizer, out, every
        self.checkpoint = out.with_suffix(".checkpoint")
        self.start, spent = 0, 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint)
            trainee.load_state_dict(state["trainee"])
            optimizer.load_state_dict(state["optimizer"])
            self.start, spent = state["step"], state["seconds"]
        self.began = time.monotonic() - spent
        self.shown: dict[str, float] = {}

    def log(self, done: int, losses: dict[str, Tensor]) -> None:
        """Print the running means of the losses every `every` steps; `done` counts the steps."""
        for name, value in losses.items():
            self.shown[name] = self.shown.get(name, value.item()) * 0.98 + value.item() * 0.02
        if done % self.every == 0:
            named = "  ".join(f"{name} {value:.4f}" for name, value in self.shown.items())
            print(f"step {done:5d}  {named}  {time.monotonic() - self.began:.0f} s", flush=True)

    def keep(self, done: int) -> None:
        """Write the weights and the checkpoint."""
        model = self.trainee.model
        assert isinstance(model, nn.Module)
        save(model, self.out)
        state = {"trainee": self.trainee.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "step": done, "seconds": time.monotonic() - self.began}, self.checkpoint)


def request(description: str | None, steps: int, rate: float) -> argparse.Namespace:
    """The arguments of a training script: out, steps and rate, the last two with their defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="safetensors file to write; its checkpoint is beside it"
    )
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rate", type=float, default=rate)
    return parser.parse_args()
