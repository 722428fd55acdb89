"""Trains a built-in model in processes of one thread, which synchronise once a step instead of at every operator."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from training import Training, adamw, cosine_rate

WORKERS = 2
_EVERY = 250  # steps from one checkpoint to the next
Batch = dict[str, Tensor]


class Course(Protocol):
    """The module, data and hyperparameters of a training; it is sent to the workers.

    Attributes:
        steps: of the whole training.
        rate: peak of the learning rate.
        warmup: steps until the peak.
        decay: weight decay.
        seed: of the initial weights.
    """

    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def rate(self) -> float: ...  # noqa: D102
    @property
    def warmup(self) -> int: ...  # noqa: D102
    @property
    def decay(self) -> float: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102

    def trainee(self) -> nn.Module:
        """The module that is trained; see `Training`."""
        ...

    def batch(self, step: int, worker: int) -> Batch:
        """The batch of one worker in one step, the same after a resume."""
        ...

    def loss(self, trainee: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts."""
        ...


def average(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the workers, in one exchange."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient) / WORKERS)


def work(rank: int, out: Path, course: Course, meeting: str) -> None:
    """Train to the end, from the newest checkpoint if `out` has one beside it; worker 0 writes."""
    launcher = os.getppid()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    torch.manual_seed(course.seed)
    trainee = course.trainee()
    parameters = list(trainee.parameters())
    optimizer = adamw(parameters, course.decay)
    training = Training(trainee, optimizer, out, every=50)
    # No worker may write the next checkpoint before all have read this one.
    dist.barrier()
    for step in range(training.start, course.steps):
        # A worker that outlived its launcher would overwrite the next run's checkpoint.
        if os.getppid() != launcher:
            raise SystemExit("the launcher of this training is gone")
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(course.rate, course.warmup, course.steps, step)
        loss, parts = course.loss(trainee, course.batch(step, rank), step)
        optimizer.zero_grad()
        loss.backward()
        average(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if rank:
            continue
        training.log(step + 1, parts)
        if (step + 1) % _EVERY == 0 or step + 1 == course.steps:
            training.keep(step + 1)


def train(out: Path, course: Course) -> None:
    """Run the workers of one training to its end."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (out, course, f"{folder}/meeting"), nprocs=WORKERS)
