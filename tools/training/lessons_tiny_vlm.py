"""Training batches: scenes with packed questions, and auxiliary targets of each patch and of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokexport.exporter.zoo.tiny_vlm.questions import Question, questions
from tokexport.exporter.zoo.tiny_vlm.scenes import scene
from tokexport.exporter.zoo.tiny_vlm.text import COLOURS, SHAPES, WORDS
from tokexport.runtimes.words import Words

ASKED = 8  # questions on each image, packed after it in one sequence
SLOT = 11  # words of the longest question with its answer and <eos>
IGNORED = -100


def draw(seed: tuple[int, ...], images: int) -> dict[str, NDArray[Any]]:
    """One batch as numpy arrays: pixels uint8, ids and targets [B, ASKED, SLOT], patch classes, what is present."""
    rng = np.random.default_rng(seed)
    pixels, patches, present, asked = [], [], [], []
    for _ in range(images):
        drawn = scene(rng)
        pixels.append(drawn.image)
        kinds = np.array([(COLOURS.index(o.colour) + 1, SHAPES.index(o.shape)) for o in drawn.objects] + [(0, IGNORED)])
        classes = kinds[np.where(drawn.covered, drawn.owner, -1)]
        # A patch that an object covers only a little is ambiguous, and has no target.
        classes[(drawn.coverage > 0.02) & ~drawn.covered] = IGNORED
        patches.append(classes)
        here = np.zeros((len(COLOURS), len(SHAPES)), np.float32)
        here[kinds[:-1, 0] - 1, kinds[:-1, 1]] = 1
        present.append(here.ravel())
        asked.append(pack(questions(drawn, rng, ASKED), WORDS, SLOT))
    return {
        "pixels": np.stack(pixels),
        "ids": np.stack([ids for ids, _ in asked]),
        "targets": np.stack([targets for _, targets in asked]),
        "patches": np.stack(patches),
        "present": np.stack(present),
    }


def pack(asked: Sequence[Question], words: Words, slot: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Questions with their answers as ids [Q, slot], and the target after each word [Q, slot]."""
    ids = np.full((len(asked), slot), words.pad, np.int64)
    targets = np.full((len(asked), slot), IGNORED, np.int64)
    for row, question in enumerate(asked):
        text, answer = words.tokenize(question.text), [*words.tokenize(question.answer), words.eos[0]]
        ids[row, : len(text) + len(answer)] = text + answer
        targets[row, len(text) - 1 : len(text) + len(answer) - 1] = answer
    return ids, targets
