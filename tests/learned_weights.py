"""Random weights for methods that read trained ones from a file, in the shapes that each asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.blocks.weights import ReadsWeights


def asked_shapes(method: str, params: Mapping[str, Any], case: Case) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array that a method reads from its weights file."""
    compressor = make(method, {**params, "weights": "asked.npz"})
    assert isinstance(compressor, ReadsWeights)
    return compressor.shapes(case)


def random_weights(method: str, params: Mapping[str, Any], case: Case, path: Path, spread: float | None = None) -> None:
    """Write them as .npz.

    Args:
        method: its name.
        params: without ``weights``.
        case: what they are for.
        path: of the file.
        spread: standard deviation; by default a layer's outputs are as large as its inputs, and norms scale by 1.
    """
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in asked_shapes(method, params, case).items():
        noise = rng.standard_normal(shape)
        if spread is not None:
            arrays[name] = spread * noise
        elif noise.ndim > 1:
            arrays[name] = noise * np.prod(shape[1:]) ** -0.5
        else:
            arrays[name] = 0.1 * noise + name.endswith("weight")
    np.savez(path, **arrays)
