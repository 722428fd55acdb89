"""Training batches: clips with packed questions, and auxiliary targets of each patch, per frame and over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from lessons_tiny_vlm import IGNORED, pack
from numpy.typing import NDArray
from tokexport.exporter.zoo.tiny_video.clips import FRAMES, Clip, clip
from tokexport.exporter.zoo.tiny_video.questions import questions
from tokexport.exporter.zoo.tiny_video.text import DIRECTIONS, WORDS
from tokexport.exporter.zoo.tiny_vlm.text import COLOURS, SHAPES

ASKED = 12  # questions on each clip, packed after it in one sequence
SLOT = 12  # words of the longest question with its answer and <eos>

# Classes of a patch: background, or a thing that is at rest, moves, came, or was there.
GROUND, RESTS, MOVES = 0, 1, 2
CAME = MOVES + len(DIRECTIONS)
WENT = CAME + 1
EVENTS = WENT + 1


def draw(seed: tuple[int, ...], clips: int) -> dict[str, NDArray[Any]]:
    """One batch as numpy arrays: pixels uint8, ids and targets [B, ASKED, SLOT], and what `seen` says of patches."""
    rng = np.random.default_rng(seed)
    drawn = [clip(rng) for _ in range(clips)]
    asked = [pack(questions(item, rng, ASKED), WORDS, SLOT) for item in drawn]
    patches = [seen(item) for item in drawn]
    return {
        "pixels": np.stack([item.frames for item in drawn]),
        "ids": np.stack([ids for ids, _ in asked]),
        "targets": np.stack([targets for _, targets in asked]),
        **{name: np.stack([each[name] for each in patches]) for name in patches[0]},
    }


def seen(item: Clip) -> dict[str, NDArray[np.int64]]:
    """The auxiliary targets of each patch in every frame; IGNORED where there is none.

    Returns:
        looks: colour and shape of what covers it [N, 2].
        events: what happens there in this frame [N].
        stories: what has happened up to this frame to the thing that covers it, or covered it before it went [N].
        moments: when that began and, for a move, ended [N, 2].
    """
    places = item.share.shape[1:]
    looks = np.zeros((*places, 2), np.int64)
    looks[..., 1] = IGNORED
    events, stories = np.full(places, GROUND), np.full(places, GROUND)
    moments = np.full((*places, 2), IGNORED)
    frames = np.arange(FRAMES)
    # A patch that a thing covers only a little is ambiguous, and has no target.
    grazed = (item.share > 0.02).any(0) & ~item.covered.any(0)
    for thing, covered in zip(item.things, item.covered):
        begins, ends = thing.begins, thing.ends
        looks[covered] = COLOURS.index(thing.colour) + 1, SHAPES.index(thing.shape)
        now, so_far = np.full((2, FRAMES), RESTS)
        began, ended = np.full((2, FRAMES), IGNORED)
        if thing.motion == "move":
            now[begins + 1 : ends + 1] = MOVES + DIRECTIONS.index(thing.direction)
            so_far[begins + 1 :] = now[ends]
            began[begins + 1 :], ended[ends + 1 :] = begins, ends
        elif thing.motion == "come":
            now[begins], so_far[begins:], began[begins:] = CAME, CAME, begins
        for known, value in ((events, now), (stories, so_far), (moments[..., 0], began), (moments[..., 1], ended)):
            known[covered] = np.broadcast_to(value[:, None], covered.shape)[covered]
        if thing.motion == "go":
            left = (frames[:, None] >= begins) & covered[begins - 1]
            events[left & (frames[:, None] == begins)], stories[left], moments[left, 0] = WENT, WENT, begins
    blank = grazed & (events == GROUND)
    looks[grazed], events[blank], stories[grazed & (stories == GROUND)] = IGNORED, IGNORED, IGNORED
    return {
        "looks": looks.reshape(-1, 2),
        "events": events.ravel(),
        "stories": stories.ravel(),
        "moments": moments.reshape(-1, 2),
    }
