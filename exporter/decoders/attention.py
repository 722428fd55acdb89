"""The attention of transformers' decoders as static graphs need it, and the caches that its layers see.

transformers calls a registered attention function in every layer, whatever the family, and hands it the keyword
arguments that the decoder was called with. So one function, told by those what it reads, serves every decoder:

    past        decode: by layer, key and value [B, H, capacity, d] of self-attention. The softmax runs over
                [past | new]; `attention_mask` is that of the past, and the new key is always seen.
    cross_bias  [B, 1, 1, K], added to the logits of cross-attention, where the decoder gives that none for a mask.
    watch       called with the layer, its scaled queries, its keys, the mask and the softcap; see `stages.Watch`.
    members     prefill: gives the keys and values that are read in the place of the layer's; see `by_position`.

A cache of transformers concatenates; these keep what a layer computed, so that a graph can return it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.cache_utils import Cache, EncoderDecoderCache

NAME = "tokexport"
# See `unmasked`.
UNMASKED = "tokexport_unmasked"

KeyValue = tuple[Tensor, Tensor]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    past: Mapping[int, KeyValue] | None = None,
    cross_bias: Tensor | None = None,
    watch: Callable[..., None] | None = None,
    members: Callable[[nn.Module, Tensor, Tensor], KeyValue] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """softmax(scaling Q K^T + mask) V, with the interface that transformers gives to registered functions.

    Grouped queries are laid beside each other, so that keys and values are never repeated.

    Args:
        module: the layer's attention: causal where it is self-attention, with its `layer_idx`.
        query: [B, H, n, d].
        key: [B, G, m, d], where G divides H; of the token itself where there is a `past`.
        value: likewise.
        attention_mask: added to the logits: [B or 1, 1, n or 1, m], in self-attention with a `past` [.., capacity].
        scaling: of the logits; None: d ** -0.5.
        softcap: the logits are softcap * tanh(logits / softcap) before the mask.
        past: see the module docstring.
        cross_bias: likewise.
        watch: likewise.
        members: likewise.

    Returns:
        [B, n, H, d], and None for the weights.
    """
    batch, heads, rows, dim = query.shape
    groups = key.shape[1]
    query = query * (dim**-0.5 if scaling is None else scaling)
    if watch is not None:
        watch(module.layer_idx, query, key, attention_mask, softcap)
    if members is not None:
        key, value = members(module, key, value)
    query = query.reshape(batch, groups, heads // groups * rows, dim)
    mask = attention_mask if module.is_causal or cross_bias is None else cross_bias

    def logits(keys: Tensor, added: Tensor | None) -> Tensor:
        products = query @ keys.transpose(2, 3)
        if softcap is not None:
            products = torch.tanh(products / softcap) * softcap
        if added is None:
            return products
        products = products.reshape(batch, heads, rows, -1) + added
        return products.reshape(batch, groups, heads // groups * rows, -1)

    if past is None or not module.is_causal:
        out = logits(key, mask).softmax(-1) @ value
    else:
        past_key, past_value = past[module.layer_idx]  # type: ignore[index]
        capacity = past_key.shape[2]
        weights = torch.cat([logits(past_key, mask), logits(key, None)], -1).softmax(-1)
        out = weights[..., :capacity] @ past_value + weights[..., capacity:] @ value
    return out.reshape(batch, heads, rows, dim).transpose(1, 2), None


def unmasked(
    _: nn.Module, query: Tensor, key: Tensor, value: Tensor, __: None, scaling: float | None = None, **___: Any
) -> tuple[Tensor, None]:
    """The attention of an encoder all of whose tokens see each other.

    For those of its own transformers makes a mask that masks nothing, of a row and a column for every token.
    """
    return F.scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2), None


AttentionInterface.register(NAME, attention)
AttentionInterface.register(UNMASKED, unmasked)


class Kept(Cache):
    """A cache that is empty to every layer, and keeps the key and value that it computes."""

    def __init__(self) -> None:
        self.computed: dict[int, KeyValue] = {}
        self.layers: list[Any] = []

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> KeyValue:
        """Keep them, and attend to them alone."""
        self.computed[layer_idx] = (key, value)
        return key, value

    def in_order(self) -> list[Tensor]:
        """Key and value of the first layer, of the second, ..."""
        return [part for layer in sorted(self.computed) for part in self.computed[layer]]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions are given, and count from nothing here."""
        return 0

    def __len__(self) -> int:
        return 0


@dataclass(frozen=True)
class _Layer:
    keys: Tensor
    values: Tensor


class Given(Kept):
    """A cache of cross-attention that was filled before."""

    def __init__(self, pairs: Sequence[KeyValue]) -> None:
        super().__init__()
        self.layers = [_Layer(key, value) for key, value in pairs]

    def __len__(self) -> int:
        return len(self.layers)


class Both(EncoderDecoderCache):
    """The caches of a decoder with cross-attention.

    Args:
        own: of self-attention.
        cross: of cross-attention; one that is `Given` is read, and any other is filled.
    """

    def __init__(self, own: Kept, cross: Kept) -> None:
        self.self_attention_cache, self.cross_attention_cache = own, cross
        self.is_updated = dict.fromkeys(range(len(cross)), True)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """See `Kept`."""
        return 0
