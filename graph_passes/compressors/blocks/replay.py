"""Checks another implementation of a method by the decisions it made.

Two correct implementations round differently. If two candidates are equally good up to rounding, they may choose
differently, and from there on their results have little in common. So a method *replays* a result: it reads the
decisions that the result shows (which tokens were kept, where each of the others went), computes how much worse than
the best one the worst of them was, and the outputs that must follow from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from ..base import Case, Compressed

if TYPE_CHECKING:
    import torch

Node = TypeVar("Node")

TIED = 1e-5  # a regret of about a hundred roundings
_TRIES = 1000


@dataclass(frozen=True)
class Replay:
    """The expected result for given decisions.

    Attributes:
        expected: the reference's result for these decisions.
        regret: [B] float64 on the CPU: by how much the worst decision falls short of the best one, relative to the
            size of what was rounded; 0 where all are the best, about 1e-6 after a rounding in float32, infinite for
            a decision that the method cannot make.
    """

    expected: Compressed[torch.Tensor]
    regret: torch.Tensor


@runtime_checkable
class Replays(Protocol):
    """A compressor whose choices depend on rounding. One without `replay` must agree with its reference exactly."""

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Check `got`, with indices in range and ascending kept_indices; other arguments as in `reference`."""
        ...


def top_k_regret(scores: torch.Tensor, kept: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Regret [B] of having kept `kept` as the top K.

    The smallest t for which no lost token beats a kept one by more than t times the scales of the two.

    Args:
        scores: [B, N].
        kept: [B, N] bool.
        scale: [B, N], what the rounding error of each score is relative to.
    """
    import torch

    worst = []
    for score, mask, size in zip(scores.double(), kept, scale.double()):
        ahead = score[~mask][None, :] - score[mask][:, None]
        both = size[~mask][None, :] + size[mask][:, None]
        worst.append(_relative(ahead, both).max() if ahead.numel() else score.new_zeros(()))
    return torch.stack(worst).cpu()


def nearest_regret(cost: torch.Tensor, chosen: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """Regret [B] of every token having gone to slot `chosen` [B, N] instead of the one of least cost [B, N, K].

    Relative to `scale`, or to the cost that was paid.
    """
    import torch

    paid = cost.gather(2, chosen.clamp(min=0)[..., None])[..., 0].double()
    regret = _relative(paid - cost.amin(2).double(), paid if scale is None else torch.full_like(paid, scale))
    return torch.where(chosen >= 0, regret, torch.inf).amax(1).cpu()


def explain(
    start: Node, ways: Callable[[Node], list[tuple[float, Node]] | None], *, fewest: bool = False
) -> tuple[float, Node | None]:
    """Search for a sequence of decisions that leads to a result which does not show all of them.

    If several are equally good up to rounding, later decisions depend on which one was made: all of them are tried
    until one sequence explains the result.

    Args:
        start: the state before the first decision.
        ways: the possible next decisions, the best first, each with its regret and next state; None at the end, empty
            if no decision leads to the result.
        fewest: try first the sequences with the fewest decisions other than the best; else vary the last decisions
            first, which keeps fewer nodes in memory.

    Returns:
        The regret of the worst decision, and the final state; infinite and None if no sequence leads there.
    """
    regret = float("inf")
    end: Node | None = None
    tries = [(0, 0, 0.0, start)]
    count, left = 0, _TRIES
    descends = True  # a sequence may be longer than the number of tries: the first one goes to its end
    while tries and left and regret > TIED:
        left -= not descends
        differs, _, worst, node = heappop(tries)
        # The best sequence is followed to its end even if it does not explain the result: then its regret counts.
        if worst > TIED and end is not None:
            continue
        following = ways(node)
        descends = descends and bool(following)
        if following is None:
            if worst < regret:
                regret, end = worst, node
            continue
        for place, (lack, way) in reversed([*enumerate(following)]):
            if place == 0 or max(worst, lack) <= TIED:
                count += 1
                heappush(tries, (differs + (place > 0 and fewest), -count, max(worst, lack), way))
    return regret, end


def _relative(excess: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """excess / scale where there is an excess, else 0, even if the scale is 0."""
    import torch

    return torch.where(excess > 0, excess / scale, torch.zeros_like(excess))
