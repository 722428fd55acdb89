"""Synthetic inputs with structure, made from a seed: white noise has no similar tokens to prove a compressor on."""

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


def sound(number: int, samples: int, rate: int = 16000) -> NDArray[np.float32]:
    """Gliding voiced tones between pauses, the same for the same number.

    Args:
        number: chooses pitches and pauses.
        samples: length.
        rate: samples a second.

    Returns:
        [samples] float32 in [-1, 1].
    """
    rng = np.random.default_rng(number)
    wave = 0.002 * rng.standard_normal(samples)
    position = int(rng.uniform(0, 0.2) * rate)
    while position < samples:
        length = min(int(rng.uniform(0.1, 0.6) * rate), samples - position)
        time = np.arange(length) / rate
        pitch, glide = rng.uniform(90, 260), rng.uniform(-80, 80)
        phase = 2 * np.pi * (pitch * time + 0.5 * glide * time**2)
        voiced = sum(np.sin(k * phase) * rng.uniform(0.2, 1) / k for k in range(1, 9))
        wave[position : position + length] += 0.25 * voiced * np.sin(np.pi * np.arange(length) / length)
        position += length + int(rng.uniform(0.02, 0.5) * rate)
    return np.clip(wave, -1, 1).astype(np.float32)
