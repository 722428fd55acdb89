"""Synthetic pictures and videos with structure, made from a seed.

White noise has no similar tokens to prove a compressor on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def image(number: int, height: int, width: int) -> NDArray[np.float32]:
    """A picture of soft shapes on a shaded background, the same for the same number.

    Returns:
        [3, height, width] float32 in [0, 1].
    """
    rng = np.random.default_rng(number)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    tint = rng.uniform(0.2, 0.8, (3, 1, 1))
    slope = rng.uniform(-0.3, 0.3, (3, 2, 1, 1))
    picture = tint + slope[:, 0] * (x - 0.5) + slope[:, 1] * (y - 0.5)
    for _ in range(6):
        centre_x, centre_y = rng.uniform(0.1, 0.9, 2)
        radius, squareness = rng.uniform(0.06, 0.22), rng.choice([2.0, 6.0])
        distance = (np.abs(x - centre_x) ** squareness + np.abs(y - centre_y) ** squareness) ** (1 / squareness)
        cover = np.clip((radius - distance) * min(height, width) + 0.5, 0, 1)
        stripes = 0.15 * np.sin(rng.uniform(20, 90) * (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1)))
        picture = picture * (1 - cover) + cover * (rng.uniform(0, 1, (3, 1, 1)) + stripes)
    return np.clip(picture, 0, 1).astype(np.float32)


def clip(number: int, frames: int, height: int, width: int) -> NDArray[np.float32]:
    """A video whose camera goes over a picture that stays, an eighth of it in all, the same for the same number.

    Returns:
        [frames, 3, height, width] float32 in [0, 1].
    """
    way = max(1, max(height, width) // 8)
    whole = image(number, height + way, width + way)
    at = [way * frame // max(1, frames - 1) for frame in range(frames)]
    return np.stack([whole[:, step : step + height, step : step + width] for step in at])
