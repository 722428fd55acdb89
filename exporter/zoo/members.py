"""Slots that a prompt reads at the positions of all tokens in them.

A merged token stands for several, its members, and has one position, although they were at several. log(size) gives it
their weight. Here prefill further gives it their positions: an id or a slot attends to each member, whose key is that
of its slot, rotated as if it were at the member's own position, and whose value is that of its slot. So there are N
keys for K slots, where only the slots and ids ask. DyMU (arXiv 2504.17040) lets all N ask.

A member's key is its slot's key, rotated further by the distance between the two: rotations add. The KV cache holds the
K slots, each at its own position, and decode reads them with log(size).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .decoding import MASKED


@dataclass(frozen=True)
class Members:
    """Which slot each token is in, and how much it weighs.

    Attributes:
        slot: [B, N] int64; 0 for a token that was lost.
        bias: [B, N], added to the logits of its key: log of the slot's size less log of its members, which is 0 where
            the size counts them; of a token that was lost, so that it is never seen.
    """

    slot: Tensor
    bias: Tensor

    @classmethod
    def of(cls, kept_indices: Tensor, assignment: Tensor, token_bias: Tensor) -> Members:
        """Read what a compressor says of K slots.

        A slot that holds something else than its own token, as those of ApET's basis do, stands at its own place.

        Args:
            kept_indices: [B, K] int64.
            assignment: [B, N] int64, -1 for a token that was lost.
            token_bias: [B, K], log of the sizes.
        """
        places, slots = torch.arange(assignment.shape[1]), torch.arange(kept_indices.shape[1])
        own = (kept_indices[:, None] == places[:, None]).to(token_bias.dtype)
        # Numbered from 1, so that 0 says that there is none.
        mine = (own * (slots + 1)).amax(2) - 1
        slot = torch.where(assignment < 0, mine.long(), assignment)
        count = (slot[:, None] == slots[:, None]).to(token_bias.dtype).sum(2)
        weight = token_bias - count.clamp(min=1).log()
        lost, slot = slot < 0, slot.clamp(min=0)
        return cls(slot, torch.where(lost, MASKED, weight.gather(1, slot)))


def seen_up_to(place: Tensor, length: int) -> Tensor:
    """The causal mask of those who ask at `place` [B, L], in an uncompressed sequence: [B, 1, L, length]."""
    return torch.where(torch.arange(length) <= place[..., None], 0.0, MASKED)[:, None]


def taken(x: Tensor, slot: Tensor) -> Tensor:
    """The slot of each member: x [B, H, K, d], slot [B, N] -> [B, H, N, d]."""
    return x.gather(2, slot[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def in_place(x: Tensor, offset: int, keep: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Keys or values [B, H, P + K, d], with what `change` makes of the K slots behind `offset` ids in their place."""
    end = offset + keep
    return torch.cat([x[:, :, :offset], change(x[:, :, offset:end]), x[:, :, end:]], 2)


def assignment_example(tokens: int, keep: int) -> dict[str, Tensor]:
    """The input of prefill, as an example: [1, N], as many neighbours in each slot."""
    return {"assignment": (torch.arange(tokens) * keep // tokens)[None]}
