"""Means over merged tokens in PyTorch, weighted by how many tokens each slot stands for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def weighted_means(calls: list[dict[str, Any]], bias: list[torch.Tensor], prefix: int) -> Iterator[None]:
    """Weight `mean` over tokens, in the model's own code, by the exponential of the bias.

    Only a mean over the second to last axis is one over tokens: [B, m, D] or [m, D].

    Args:
        calls: gets an entry for each mean that was weighted.
        bias: empty, or one [B, n], which may be put there while this is open; then m is n, or n - `prefix`.
        prefix: tokens in front, which a pool may leave out.
    """
    import torch

    of_function, of_tensor = torch.mean, torch.Tensor.mean

    def mean(x: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        axis = _axis(x, *args, **named)
        if not bias or axis is None or x.shape[axis] not in (bias[0].shape[-1], bias[0].shape[-1] - prefix):
            return of_function(x, *args, **named)
        calls.append({"query": None, "biased": True})
        weights = bias[0][:, -x.shape[axis] :].exp()[..., None].to(x.dtype)
        weights = weights if x.ndim == 3 else weights[0]
        keepdim = named.get("keepdim", len(args) > 1 and args[1])
        return (x * weights).sum(axis, keepdim=keepdim) / weights.sum(axis, keepdim=keepdim)

    torch.mean, torch.Tensor.mean = mean, mean  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.mean, torch.Tensor.mean = of_function, of_tensor  # type: ignore[method-assign]


def _axis(x: torch.Tensor, dim: Any = None, *_: Any, **named: Any) -> int | None:
    """The axis of tokens, where that alone is averaged."""
    axes = dim if dim is not None else named.get("axis")
    axes = tuple(axes) if isinstance(axes, (tuple, list)) else (axes,)
    if x.ndim not in (2, 3) or len(axes) != 1 or axes[0] is None or axes[0] % x.ndim != x.ndim - 2:
        return None
    return x.ndim - 2
