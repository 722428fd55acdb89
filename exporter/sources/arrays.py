"""numpy arrays as torch tensors and back, bfloat16 included, which numpy knows only through ml_dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """A copy of the array as a tensor of the same dtype."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """`to_tensor` of every value."""
    return {name: to_tensor(array) for name, array in arrays.items()}


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values as an array of the same dtype."""
    import ml_dtypes
    import torch

    if tensor.dtype == torch.bfloat16:
        bits: np.ndarray = tensor.view(torch.uint16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    result: np.ndarray = tensor.numpy()
    return result
