"""Asks about a clip what no single frame can answer: which way, what happened, how many, in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..tiny_vlm.questions import Question
from ..tiny_vlm.text import NUMBERS
from .clips import Clip, Motion, Thing

KINDS: tuple[str, ...] = ("direction", "motion", "count", "order", "before")
# How often each kind is tried: those that need two objects of one motion are rarely possible.
_TRIED = (0.14, 0.1, 0.1, 0.33, 0.33)

_DID: dict[Motion, str] = {"stay": "stayed", "move": "moved", "come": "came", "go": "went"}
_VERBS: dict[str, Motion] = {"start": "move", "stop": "move", "come": "come", "go": "go"}
_APART = 2  # frames between two moments whose order is asked for
_HAPPENED: tuple[Motion, ...] = ("move", "come", "go")


@dataclass(frozen=True)
class Asked(Question):
    """A question about a clip.

    Attributes:
        about: the numbers of the things that the answer depends on.
    """

    about: tuple[int, ...]

    def content(self, clip: Clip) -> NDArray[np.bool_]:
        """Bool [288]: the patches that these things cover; of one that came or went, its place in every frame."""
        covered = clip.covered
        shown = np.zeros(covered.shape[1:], bool)
        for index in self.about:
            always = clip.things[index].motion in ("come", "go")
            shown |= covered[index].any(0)[None] if always else covered[index]
        return shown.ravel()


def questions(clip: Clip, rng: np.random.Generator, count: int = 8) -> list[Asked]:
    """Ask `count` questions; a kind that the clip cannot pose without ambiguity is replaced by another."""
    asked: list[Asked] = []
    while len(asked) < count:
        question = _ASK[KINDS[rng.choice(len(KINDS), p=_TRIED)]](clip.things, rng)
        if question is not None:
            asked.append(question)
    return asked


def _doing(things: list[Thing], motion: Motion) -> list[int]:
    return [index for index, thing in enumerate(things) if thing.motion == motion]


def _one(among: list[int], rng: np.random.Generator) -> int:
    return among[rng.integers(len(among))]


def _direction(things: list[Thing], rng: np.random.Generator) -> Asked | None:
    moving = _doing(things, "move")
    if not moving:
        return None
    index = _one(moving, rng)
    thing = things[index]
    return Asked("direction", f"which way did the {thing.name} move ?", thing.direction, (index,))


def _motion(things: list[Thing], rng: np.random.Generator) -> Asked:
    # First the motion, then an object with it: where all but one move, "moved" would be a good blind guess.
    motions = sorted({thing.motion for thing in things})
    index = _one(_doing(things, motions[rng.integers(len(motions))]), rng)
    return Asked("motion", f"what did the {things[index].name} do ?", _DID[things[index].motion], (index,))


def _count(things: list[Thing], rng: np.random.Generator) -> Asked:
    # One is rarer than the others, and each of them would be a good blind guess.
    amounts = {motion: len(_doing(things, motion)) for motion in _HAPPENED}
    weight = np.array([0.3 if amounts[motion] == 0 else 1.5 if amounts[motion] == 1 else 0.8 for motion in _HAPPENED])
    motion = _HAPPENED[rng.choice(len(_HAPPENED), p=weight / weight.sum())]
    return Asked("count", f"how many objects {_DID[motion]} ?", NUMBERS[amounts[motion]], tuple(range(len(things))))


def _order(things: list[Thing], rng: np.random.Generator) -> Asked | None:
    several = [motion for motion in _HAPPENED if len(_doing(things, motion)) > 1]
    if not several:
        return None
    which, motion = ("first", "last")[rng.integers(2)], several[rng.integers(len(several))]
    doing = _doing(things, motion)
    # The one that moved last is the one that began last; `before` asks about the end of a move.
    moments = sorted((things[index].begins, index) for index in doing)
    if which == "last":
        moments.reverse()
    if abs(moments[0][0] - moments[1][0]) < _APART:
        return None
    return Asked("order", f"which object {_DID[motion]} {which} ?", things[moments[0][1]].name, tuple(doing))


def _before(things: list[Thing], rng: np.random.Generator) -> Asked | None:
    several = [verb for verb, motion in _VERBS.items() if len(_doing(things, motion)) > 1]
    if not several:
        return None
    verb = several[rng.integers(len(several))]
    one, other = rng.permutation(_doing(things, _VERBS[verb]))[:2].tolist()
    first, second = (things[index].ends if verb == "stop" else things[index].begins for index in (one, other))
    if abs(first - second) < _APART:
        return None
    text = f"did the {things[one].name} {verb} before the {things[other].name} ?"
    return Asked("before", text, "yes" if first < second else "no", (one, other))


_ASK: dict[str, Callable[[list[Thing], np.random.Generator], Asked | None]] = {
    "direction": _direction,
    "motion": _motion,
    "count": _count,
    "order": _order,
    "before": _before,
}
