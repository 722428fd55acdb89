"""Draws clips of coloured shapes that stay, move, come or go on a static, cluttered background, from a seed.

A clip has eight frames of 48 x 48 pixels. Shapes and background are those of tiny-vlm, smaller. The objects of a clip
have different colours and never touch, and each has one motion:

    stay    at rest in every frame
    move    at rest until frame `begins`, then evenly `travel` pixels in one direction, at rest from frame `ends` on
    come    absent before frame `begins`, then at rest
    go      at rest before frame `begins`, then absent
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..tiny_vlm.scenes import PATCH, RGB, UPRIGHT, background, outlines
from ..tiny_vlm.text import COLOURS, SHAPES
from .text import DIRECTIONS

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES, SIZE, GRID = 8, 48, 6
MAX_OBJECTS = 4
MILLISECONDS = 250  # from one frame to the next, where a clip is shown

Motion = Literal["stay", "move", "come", "go"]
MOTIONS: tuple[Motion, ...] = ("stay", "move", "come", "go")

# Direction -> its step in (x, y); y counts down the image.
_STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_TRIES = 40
_WINDOW = 20
_NOISE = 2.0


@dataclass(frozen=True)
class Thing:
    """One object and its motion; x, y and radius in pixels, radius is that of a circle of about the same area.

    Attributes:
        x: of its centre in the first frame that shows it.
        begins: of a move, the last frame at rest; of a come or go, the first frame that is different. 0 for stay.
        ends: of a move, the first frame at its goal. 0 for all others.
        direction: of a move; empty for all others.
        travel: pixels of a move.
    """

    colour: str
    shape: str
    motion: Motion
    x: float
    y: float
    radius: float
    begins: int = 0
    ends: int = 0
    direction: str = ""
    travel: float = 0.0

    @property
    def name(self) -> str:
        """Its name in questions."""
        return f"{self.colour} {self.shape}"

    @property
    def there(self) -> NDArray[np.bool_]:
        """Bool [8], the frames that show it."""
        frames = np.arange(FRAMES)
        if self.motion == "come":
            return frames >= self.begins
        return frames < self.begins if self.motion == "go" else frames >= 0

    @property
    def path(self) -> NDArray[np.float64]:
        """Its centre (x, y) in every frame [8, 2]."""
        start = np.array([[self.x, self.y]])
        if self.motion != "move":
            return start.repeat(FRAMES, 0)
        gone = np.clip((np.arange(FRAMES) - self.begins) / (self.ends - self.begins), 0, 1) * self.travel
        return start + gone[:, None] * np.array([_STEP[self.direction]])


@dataclass(frozen=True)
class Clip:
    """Frames with their truth.

    Attributes:
        frames: uint8 [8, 48, 48, 3].
        things: at most four.
        share: float32 [things, 8, 36], how much of each patch each covers.
    """

    frames: NDArray[np.uint8]
    things: list[Thing]
    share: NDArray[np.float32]

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Bool [things, 8, 36]: patches of which a thing covers at least a quarter."""
        return self.share >= 0.25

    def to_pil(self, zoom: int = 1) -> list[Image]:
        """The frames for people; `zoom` repeats pixels."""
        from PIL import Image

        return [Image.fromarray(frame) for frame in self.frames.repeat(zoom, 1).repeat(zoom, 2)]

    def to_png(self, zoom: int = 1) -> bytes:
        """The clip as an animated PNG file."""
        first, *others = self.to_pil(zoom)
        buffer = io.BytesIO()
        first.save(buffer, "PNG", save_all=True, append_images=others, duration=MILLISECONDS, loop=0)
        return buffer.getvalue()


def clip_values(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Uint8 [B, 8, 48, 48, 3] -> float32 [B, 8, 3, 48, 48], normalised with mean .5 and std .5."""
    return np.ascontiguousarray(clips.transpose(0, 1, 4, 2, 3).astype(np.float32) / 127.5 - 1)


def clip(rng: np.random.Generator) -> Clip:
    """Draw one clip of two to four things (rarely one, where there is no space for more)."""
    return draw(_things(rng), rng)


def draw(things: list[Thing], rng: np.random.Generator) -> Clip:
    """Draw these things on a background of its own; none may reach over the border."""
    still = background(rng)
    away = (len(still) - SIZE) // 2
    still = still[away : away + SIZE, away : away + SIZE]
    count, margin = len(things), _WINDOW // 2
    radii = np.array([thing.radius for thing in things])
    shapes = np.array([SHAPES.index(thing.shape) for thing in things])
    turn = UPRIGHT[shapes] + rng.uniform(-0.4, 0.4, count)
    paint = RGB[[COLOURS.index(thing.colour) for thing in things]] + rng.normal(0, 9, (count, 3)).astype(np.float32)
    canvas = np.pad(still, ((margin, margin), (margin, margin), (0, 0)))[None].repeat(FRAMES, 0)
    share = np.zeros((count, *canvas.shape[:3]), np.float32)
    # A thing at rest is drawn once for all frames in which it is at rest.
    places = [np.unique(thing.path, axis=0, return_inverse=True) for thing in things]
    of = np.repeat(np.arange(count), [len(where) for where, _ in places])
    centres = np.concatenate([where for where, _ in places])
    corner = np.floor(centres).astype(int) - margin
    alpha = outlines(np.column_stack([centres, radii[of]]), shapes[of], corner, turn[of], _WINDOW)
    shown = [
        np.flatnonzero((at.ravel() == place) & thing.there)
        for thing, (where, at) in zip(things, places, strict=True)
        for place in range(len(where))
    ]
    for thing, (x, y), mask, at in zip(of, corner + margin, alpha, shown, strict=True):
        rows, columns = slice(y, y + _WINDOW), slice(x, x + _WINDOW)
        canvas[at, rows, columns] += mask[..., None] * (paint[thing] - canvas[at, rows, columns])
        share[thing, at, rows, columns] = mask
    inner = slice(margin, margin + SIZE)
    noise = rng.standard_normal((FRAMES, SIZE, SIZE, 1), np.float32) * np.float32(_NOISE)
    frames = np.clip(canvas[:, inner, inner] + noise, 0, 255).astype(np.uint8)
    patches = share[:, :, inner, inner].reshape(count, FRAMES, GRID, PATCH, GRID, PATCH).mean((3, 5))
    return Clip(frames, things, patches.reshape(count, FRAMES, GRID**2))


def _things(rng: np.random.Generator) -> list[Thing]:
    wanted = int(rng.integers(2, MAX_OBJECTS + 1))
    colours = rng.permutation(len(COLOURS))[:wanted]
    # Most things have the same motion, else there would rarely be an order to ask for.
    common = rng.choice(len(MOTIONS), p=(0.05, 0.45, 0.25, 0.25))
    motions = np.where(rng.random(wanted) < 0.6, common, rng.choice(len(MOTIONS), wanted, p=(0.4, 0.2, 0.2, 0.2)))
    things: list[Thing] = []
    taken: list[tuple[float, float, float, float]] = []
    for colour, motion in zip(colours, motions, strict=True):
        for _ in range(_TRIES):
            thing = _thing(rng, COLOURS[colour], MOTIONS[motion])
            box = _box(thing)
            inside = min(box[:2]) >= 1 and max(box[2:]) <= SIZE - 1
            if inside and not any(_overlap(box, other) for other in taken):
                things.append(thing)
                taken.append(box)
                break
    return things


def _thing(rng: np.random.Generator, colour: str, motion: Motion) -> Thing:
    shape = SHAPES[rng.integers(len(SHAPES))]
    x, y, radius = rng.uniform(6, SIZE - 6), rng.uniform(6, SIZE - 6), rng.uniform(4.5, 6)
    if motion == "move":
        begins, lasts = int(rng.integers(0, 5)), int(rng.integers(2, 5))
        ends = min(begins + lasts, FRAMES - 1)
        direction = DIRECTIONS[rng.integers(len(DIRECTIONS))]
        return Thing(colour, shape, motion, x, y, radius, begins, ends, direction, rng.uniform(18, 26))
    return Thing(colour, shape, motion, x, y, radius, 0 if motion == "stay" else int(rng.integers(1, FRAMES - 1)))


def _box(thing: Thing) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of all that it ever covers."""
    reach, (left, top), (right, bottom) = 1.2 * thing.radius, *sorted(thing.path[[0, -1]].tolist())
    return left - reach, top - reach, right + reach, bottom + reach


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
