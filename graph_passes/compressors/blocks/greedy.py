"""Greedy selection: pick the token of the best score, update every score for the pick, repeat.

A method defines its `Rule`: the first scores, and how a pick changes them. A token is never picked twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from .replay import explain
from .select import emit_argmax

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder

State = TypeVar("State")


@dataclass(frozen=True)
class Rule(Generic[State]):
    """The rule of a greedy selection.

    Attributes:
        scores: [B, N] before the first pick.
        state: the rule's state before the first pick.
        update: state, pick [B] int64 -> the next state and the scores [B, N] before the next pick, with any value for
            tokens already picked. It does not change its argument.
        scale: [B, N], what the rounding error of each token's score is relative to.
    """

    scores: torch.Tensor
    state: State
    update: Callable[[State, torch.Tensor], tuple[State, torch.Tensor]]
    scale: torch.Tensor


def greedy(rule: Rule[State], k: int) -> torch.Tensor:
    """Positions [B, k] int64 in the order they are picked, the lowest first among equals."""
    import torch

    scores, state, picks = rule.scores, rule.state, []
    taken = torch.zeros_like(scores, dtype=torch.bool)
    while True:
        picks.append(scores.masked_fill(taken, -torch.inf).argmax(1))
        if len(picks) == k:
            return torch.stack(picks, 1)
        taken = taken.scatter(1, picks[-1][:, None], True)
        state, scores = rule.update(state, picks[-1])


def greedy_regret(rules: Iterable[Rule[State]], kept: torch.Tensor) -> torch.Tensor:
    """Regret [B] of having picked kept [B, K].

    Args:
        rules: of each batch element alone.
        kept: [B, K] int64, in any order.
    """
    import torch

    return torch.tensor([_regret(rule, chosen) for rule, chosen in zip(rules, kept)], dtype=torch.float64)


def _regret(rule: Rule[State], kept: torch.Tensor) -> float:
    """The kept tokens are picked again, each the best of those not yet picked."""

    def ways(node: tuple[State, tuple[int, ...]]) -> list[tuple[float, tuple[State, tuple[int, ...]]]] | None:
        state, picks = node
        if len(picks) == len(kept):
            return None
        scores = rule.scores
        if picks:
            state, scores = rule.update(state, kept.new_tensor(picks[-1:]))
        return [(lack, (state, (*picks, pick))) for lack, pick in _lacks(rule, scores, kept, picks)]

    start: tuple[State, tuple[int, ...]] = (rule.state, ())
    regret, _ = explain(start, ways)
    return regret


def _lacks(
    rule: Rule[State], scores: torch.Tensor, kept: torch.Tensor, picks: tuple[int, ...]
) -> list[tuple[float, int]]:
    """The kept tokens not yet picked, best first, each with its shortfall from the best of all remaining tokens."""
    import torch

    left = scores[0].double()
    left[list(picks)] = -torch.inf
    order = kept[left[kept].argsort(descending=True, stable=True)][: len(kept) - len(picks)]
    best = left.argmax()
    lack, scale = left[best] - left[order], rule.scale[0, best].double() + rule.scale[0, order].double()
    return list(zip(torch.where(lack > 0, lack / scale, 0).tolist(), order.tolist()))


def emit_greedy(b: Builder, scores: ir.Value, update: Callable[[ir.Value], ir.Value], n: int, k: int) -> ir.Value:
    """Unrolled: positions [B, k] int64 in the order they are picked.

    Args:
        b: the builder.
        scores: [B, n] float32 before the first pick.
        update: emits, for a pick [B, 1] int64, the scores [B, n] before the next, below all others for picked tokens.
        n: tokens.
        k: how many to pick.
    """
    picks: list[ir.Value] = []
    while True:
        if b.exact_ties:
            pick = b.cast(emit_argmax(b, scores, 1, (1, n)), "int64")
        else:
            pick = b.op("ArgMax", scores, axis=1, keepdims=1)
        picks.append(pick)
        if len(picks) == k:
            return b.op("Concat", *picks, axis=1) if k > 1 else pick
        scores = update(pick)
