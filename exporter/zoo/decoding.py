"""What the decoders of the built-in models share: masks, attention to a KV cache, and greedy decoding in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Finite and far inside float16, also with a logit added: exp(-1e4) is exactly 0 in every precision.
MASKED = -1.0e4


def causal_mask(length: int) -> Tensor:
    """Additive causal mask [1, 1, length, length] float32."""
    return torch.full((length, length), MASKED).triu(1)[None, None]


def below(slots: Tensor, index: Tensor) -> Tensor:
    """Additive mask [B, capacity] float32 of the slots int64 [1, capacity] below an index int64 [B, 1]."""
    return torch.where(slots < index, 0.0, MASKED)


def attend_past(query: Tensor, new: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Attention of one token to a KV cache and to itself.

    The two are never joined into one tensor: what decode then reads of the cache it need not write.

    Args:
        query: [B, H, 1, dh].
        new: key and value of the token, each [B, H, 1, dh].
        past: the cache of keys and of values, each [B, H, m, dh].
        mask: added to the logits of the cache, [B or 1, 1, 1, m].

    Returns:
        [B, H, 1, dh].
    """
    query = query * query.shape[-1] ** -0.5
    own, slots = query @ new[0].transpose(2, 3), query @ past[0].transpose(2, 3) + mask
    weights = torch.cat([slots, own], -1).softmax(-1)
    return weights[..., :-1] @ past[1] + weights[..., -1:] * new[1]


def write(caches: Sequence[Tensor], new: Sequence[Tensor], at: Tensor) -> None:
    """Write what decode returned of a token, each [B, H, 1, dh], into row b of its cache at slot at[b]; `at` [B] int64.

    The caches [B, H, capacity, dh] are changed.
    """
    for cache, one in zip(caches, new, strict=True):
        cache[torch.arange(len(at)), :, at] = one[:, :, 0]


def greedy(logits: Tensor, follow: Callable[[Tensor, int], Tensor], limit: int, *, pad: int, eos: int) -> Tensor:
    """The most likely words, int64 [B, <= limit]; after `eos` a row is `pad`.

    Args:
        logits: of the first word, [B, V].
        follow: (words int64 [B, 1], number of words so far) -> logits [B, V] of the next.
        limit: at most this many words.
        pad: id that fills finished rows.
        eos: id that ends a row.
    """
    words: list[Tensor] = []
    done = torch.zeros(len(logits), dtype=torch.bool)
    while len(words) < limit and not bool(done.all()):
        if words:
            logits = follow(words[-1][:, None], len(words))
        words.append(torch.where(done, pad, logits.argmax(-1)))
        done = done | (words[-1] == eos)
    return torch.stack(words, 1)
