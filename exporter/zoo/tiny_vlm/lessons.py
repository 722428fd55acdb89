"""Batches to train on: scenes with packed questions, and what each patch and the whole image should say of itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .questions import questions
from .scenes import scene
from .text import COLOURS, EOS, PAD, SHAPES, tokenize

ASKED = 8  # questions on each image, packed behind it in one sequence
SLOT = 11  # words of the longest question with its answer and <eos>
IGNORED = -100


def draw(seed: tuple[int, ...], images: int) -> dict[str, NDArray[Any]]:
    """One batch as numpy arrays: pixels uint8, ids and targets [B, ASKED, SLOT], patch classes, what is present."""
    rng = np.random.default_rng(seed)
    pixels, patches, present = [], [], []
    ids = np.full((images, ASKED, SLOT), PAD, np.int64)
    targets = np.full((images, ASKED, SLOT), IGNORED, np.int64)
    for image in range(images):
        drawn = scene(rng)
        pixels.append(drawn.image)
        kinds = np.array([(COLOURS.index(o.colour) + 1, SHAPES.index(o.shape)) for o in drawn.objects] + [(0, IGNORED)])
        classes = kinds[np.where(drawn.covered, drawn.owner, -1)]
        # A patch that an object only grazes may be called either: neither answer is taught.
        classes[(drawn.coverage > 0.02) & ~drawn.covered] = IGNORED
        patches.append(classes)
        here = np.zeros((len(COLOURS), len(SHAPES)), np.float32)
        here[kinds[:-1, 0] - 1, kinds[:-1, 1]] = 1
        present.append(here.ravel())
        for slot, question in enumerate(questions(drawn, rng, ASKED)):
            asked, answer = tokenize(question.text), [*tokenize(question.answer), EOS]
            words = asked + answer
            ids[image, slot, : len(words)] = words
            targets[image, slot, len(asked) - 1 : len(words) - 1] = answer
    return {
        "pixels": np.stack(pixels),
        "ids": ids,
        "targets": targets,
        "patches": np.stack(patches),
        "present": np.stack(present),
    }
