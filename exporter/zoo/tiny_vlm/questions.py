"""Questions about a scene that only the image can answer: colour, shape, count, existence, in equal shares."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .scenes import Object, Scene
from .text import COLOURS, NUMBERS, SHAPES

KINDS: tuple[str, ...] = ("colour", "shape", "count", "existence")


@dataclass(frozen=True)
class Question:
    """One question with its only right answer."""

    kind: str
    text: str
    answer: str


def questions(scene: Scene, rng: np.random.Generator, count: int = 8) -> list[Question]:
    """Ask `count` questions; a kind that the scene cannot pose without ambiguity is replaced by another."""
    asked: list[Question] = []
    while len(asked) < count:
        question = _ASK[KINDS[rng.integers(len(KINDS))]](scene, rng)
        if question is not None:
            asked.append(question)
    return asked


def _only(scene: Scene, rng: np.random.Generator, trait: str) -> Object | None:
    """An object whose colour or shape no other has, so that naming that trait means it alone."""
    number = Counter(getattr(item, trait) for item in scene.objects)
    single = [item for item in scene.objects if number[getattr(item, trait)] == 1]
    return single[rng.integers(len(single))] if single else None


def _colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    item = _only(scene, rng, "shape")
    return Question("colour", f"what colour is the {item.shape} ?", f"it is {item.colour}") if item else None


def _shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    item = _only(scene, rng, "colour")
    return Question("shape", f"what shape is the {item.colour} object ?", f"a {item.shape}") if item else None


def _count(scene: Scene, rng: np.random.Generator) -> Question | None:
    if rng.random() < 0.5:
        names = COLOURS
        number = Counter(item.colour for item in scene.objects)
    else:
        names = SHAPES
        number = Counter(item.shape for item in scene.objects)
    # First the amount, then a name with it: most names have small amounts, which would be a good blind guess.
    amounts = sorted({number[name] for name in names if number[name] < len(NUMBERS)})
    if not amounts:
        return None
    weight = np.array([0.35 if amount == 0 else 0.8 if amount == 1 else 1.5 for amount in amounts])
    amount = amounts[rng.choice(len(amounts), p=weight / weight.sum())]
    having = [name for name in names if number[name] == amount]
    name = having[rng.integers(len(having))]
    things = f"{name} objects" if names is COLOURS else f"{name}s"
    verb = "is" if amount == 1 else "are"
    return Question("count", f"how many {things} are there ?", f"there {verb} {NUMBERS[amount]}")


def _existence(scene: Scene, rng: np.random.Generator) -> Question | None:
    present = {(item.colour, item.shape) for item in scene.objects}
    if rng.random() < 0.5:
        answer, pairs = "yes", sorted(present)
    else:
        answer = "no"
        absent = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in present]
        colours, shapes = {colour for colour, _ in present}, {shape for _, shape in present}
        near = [pair for pair in absent if pair[0] in colours and pair[1] in shapes]
        half = [pair for pair in absent if pair[0] in colours or pair[1] in shapes]
        # The hard case: both words are true of something, but not of the same thing.
        pairs = near or half
    colour, shape = pairs[rng.integers(len(pairs))]
    article = "an" if colour[0] == "o" else "a"
    return Question("existence", f"is there {article} {colour} {shape} ?", answer)


_ASK = {"colour": _colour, "shape": _shape, "count": _count, "existence": _existence}
