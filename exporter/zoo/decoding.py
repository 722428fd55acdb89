"""What the decoders of the built-in models share: the causal mask, and greedy decoding in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Finite and far inside float16, also with a logit added: exp(-1e4) is exactly 0 in every precision.
MASKED = -1.0e4


def causal_mask(length: int) -> Tensor:
    """Additive causal mask [1, 1, length, length] float32."""
    return torch.full((length, length), MASKED).triu(1)[None, None]


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
