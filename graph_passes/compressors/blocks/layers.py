"""Layers of learned compressors in PyTorch, for references. Weights are named as in `neural`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def linear(x: torch.Tensor, w: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """[..., in] -> [..., out]."""
    from torch.nn import functional as F

    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def mlp(x: torch.Tensor, w: Mapping[str, torch.Tensor], names: tuple[str, str]) -> torch.Tensor:
    """The second linear layer of GELU of the first."""
    from torch.nn import functional as F

    return linear(F.gelu(linear(x, w, names[0])), w, names[1])


def layer_norm(x: torch.Tensor, w: Mapping[str, torch.Tensor], name: str, epsilon: float) -> torch.Tensor:
    """Over the last axis."""
    from torch.nn import functional as F

    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], epsilon)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    w: Mapping[str, torch.Tensor],
    name: str,
    heads: int,
) -> torch.Tensor:
    """query [B, Q, *], key and value [B, n, *] -> [B, Q, d], by PyTorch's own attention."""
    from torch.nn import functional as F

    q, k, v = (
        linear(x, w, f"{name}.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
        for part, x in (("q", query), ("k", key), ("v", value))
    )
    return linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), w, f"{name}.out")
