"""Draws coloured shapes on cluttered backgrounds; the same seed draws the same scene everywhere.

Everything is numpy on small windows: about nine hundred scenes a second on one core, so training never repeats one.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .text import COLOURS, SHAPES

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE, PATCH, GRID = 96, 8, 12
MAX_OBJECTS = 8

RGB = np.array(
    [(215, 40, 45), (45, 165, 65), (45, 85, 220), (240, 215, 50), (150, 55, 180), (245, 135, 30)], np.float32
)
# A shape is a regular outline folded into a sector: corners, inner / outer radius, scale to look as large as a circle.
_CORNERS = np.array([1, 4, 3, 5], np.float32)
_INNER = np.array([1.0, np.cos(np.pi / 4), 0.5, 0.45], np.float32)
_SCALE = np.array([1.0, 1.2, 1.35, 1.4], np.float32)
UPRIGHT = np.array([0, np.pi / 4, np.pi / 2, np.pi / 2], np.float32)
WINDOW = 36
_ROWS = np.arange(SIZE, dtype=np.float32)


def _upsampling(cells: int) -> NDArray[np.float32]:
    """Linear interpolation from `cells` knots to SIZE samples, as a matrix [SIZE, cells] float32."""
    at = np.linspace(0, cells - 1, SIZE, dtype=np.float32)[:, None]
    return np.clip(1 - np.abs(at - np.arange(cells, dtype=np.float32)), 0, 1)


_TEXTURE = _upsampling(9)


@dataclass(frozen=True)
class Object:
    """One drawn object; x, y and radius in pixels, radius is that of a circle of about the same area."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Drawn:
    """An image, uint8 [96, 96, 3]."""

    image: NDArray[np.uint8]

    def to_pil(self, zoom: int = 1) -> Image:
        """The image for people; `zoom` repeats pixels."""
        from PIL import Image

        return Image.fromarray(self.image.repeat(zoom, 0).repeat(zoom, 1))

    def to_png(self, zoom: int = 1) -> bytes:
        """The image as a PNG file."""
        buffer = io.BytesIO()
        self.to_pil(zoom).save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True)
class Scene(Drawn):
    """An image with its truth.

    coverage: float32 [144], the share of each patch that objects cover.
    owner: int64 [144], the index of the object that covers most of the patch, -1 where none does.
    """

    objects: list[Object]
    coverage: NDArray[np.float32]
    owner: NDArray[np.int64]

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Bool [144]: patches of which objects cover at least a quarter."""
        return self.coverage >= 0.25


def pixel_values(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Uint8 [B, 96, 96, 3] -> float32 [B, 3, 96, 96], normalised with mean .5 and std .5."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


def background(rng: np.random.Generator) -> NDArray[np.float32]:
    """Float32 [96, 96, 3]: a tinted gradient, soft texture, thin lines, small grey specks and sensor noise."""
    base = rng.uniform(80, 190) + rng.uniform(-10, 10, 3)
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(5, 30) / SIZE
    plane = slope * (np.cos(angle) * (_ROWS[:, None] - 48) + np.sin(angle) * (_ROWS[None] - 48))
    texture = _TEXTURE @ rng.normal(0, 6, (9, 9)).astype(np.float32) @ _TEXTURE.T
    noise = rng.standard_normal((SIZE, SIZE), np.float32) * np.float32(2)
    grey = (plane + texture + noise).astype(np.float32)
    for _ in range(rng.integers(1, 5)):
        angle, shift, ink = rng.uniform(0, np.pi), rng.uniform(-40, 40), rng.uniform(-55, 55)
        away = np.cos(angle) * (_ROWS[:, None] - 48) + np.sin(angle) * (_ROWS[None] - 48) - shift
        grey += np.float32(ink) * np.clip(1.2 - np.abs(away), 0, 1).astype(np.float32)
    specks = rng.integers(6, 20)
    rows, columns = rng.integers(0, SIZE - 2, (2, specks))
    shade = rng.uniform(-60, 60, specks).astype(np.float32)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        grey[rows + down, columns + right] += shade
    return grey[..., None] + base.astype(np.float32)


def _place(rng: np.random.Generator, wanted: int) -> NDArray[np.float64]:
    """Up to `wanted` rows of (x, y, radius) that touch neither each other nor the border."""
    tries = np.stack([rng.uniform(12, SIZE - 12, 60), rng.uniform(12, SIZE - 12, 60), rng.uniform(7.5, 11, 60)], 1)
    kept: list[NDArray[np.float64]] = []
    for x, y, radius in tries:
        if all((x - u) ** 2 + (y - v) ** 2 > (1.2 * (radius + other) + 1) ** 2 for u, v, other in kept):
            kept.append(np.array([x, y, radius]))
            if len(kept) == wanted:
                break
    return np.array(kept)


def scene(rng: np.random.Generator) -> Scene:
    """Draw one scene of one to eight objects."""
    canvas = background(rng)
    places = _place(rng, int(rng.integers(1, MAX_OBJECTS + 1)))
    # Few colours and shapes per scene, else nearly every count would be zero or one.
    colours = rng.choice(len(COLOURS), len(places), p=rng.dirichlet(np.full(len(COLOURS), 0.5)))
    shapes = rng.choice(len(SHAPES), len(places), p=rng.dirichlet(np.full(len(SHAPES), 0.8)))
    corner = np.floor(places[:, :2]).astype(int) - WINDOW // 2
    alpha = outlines(places, shapes, corner, UPRIGHT[shapes] + rng.uniform(-0.4, 0.4, len(places)))
    paint = RGB[colours] + rng.normal(0, 9, (len(places), 3)).astype(np.float32)

    margin = WINDOW // 2
    padded = np.pad(canvas, ((margin, margin), (margin, margin), (0, 0)))
    share = np.zeros((len(places) + 1, SIZE + 2 * margin, SIZE + 2 * margin), np.float32)
    for index, (x, y) in enumerate(corner + margin):
        window = (slice(y, y + WINDOW), slice(x, x + WINDOW))
        padded[window] += alpha[index][..., None] * (paint[index] - padded[window])
        share[index][window] = alpha[index]
    inner = slice(margin, margin + SIZE)
    image = np.clip(padded[inner, inner], 0, 255).astype(np.uint8)
    patches = share[:, inner, inner].reshape(-1, GRID, PATCH, GRID, PATCH).mean((2, 4)).reshape(len(share), -1)
    coverage = np.minimum(patches.sum(0), 1)
    owner = np.where(coverage > 0, patches.argmax(0), -1)
    objects = [
        Object(COLOURS[colour], SHAPES[shape], float(x), float(y), float(radius))
        for colour, shape, (x, y, radius) in zip(colours, shapes, places, strict=True)
    ]
    return Scene(image, objects, coverage, owner)


def outlines(
    places: NDArray[np.float64],
    shapes: NDArray[np.int64],
    corner: NDArray[np.int64],
    turn: NDArray[np.float64],
    window: int = WINDOW,
) -> NDArray[np.float32]:
    """Anti-aliased masks [n, window, window] float32 of all objects at once, from distances to their outlines."""
    offsets = np.arange(window)
    x = (corner[:, 0, None] + offsets + 0.5 - places[:, 0, None]).astype(np.float32)[:, None, :]
    y = (corner[:, 1, None] + offsets + 0.5 - places[:, 1, None]).astype(np.float32)[:, :, None]
    distance, angle = np.sqrt(x * x + y * y), np.arctan2(y, x) + turn.astype(np.float32)[:, None, None]
    outer = (places[:, 2].astype(np.float32) * _SCALE[shapes])[:, None, None]
    half = (np.pi / _CORNERS[shapes])[:, None, None]
    folded = np.abs((angle + half) % (2 * half) - half)
    inner = outer * _INNER[shapes][:, None, None]
    # The edge of a sector runs from the tip (outer, 0) to (inner cos half, inner sin half).
    run, rise = inner * np.cos(half) - outer, inner * np.sin(half)
    edge = (rise * (distance * np.cos(folded) - outer) - run * distance * np.sin(folded)) / np.hypot(run, rise)
    signed = np.where((shapes == 0)[:, None, None], distance - outer, edge)
    return np.clip(0.5 - signed, 0, 1).astype(np.float32)
