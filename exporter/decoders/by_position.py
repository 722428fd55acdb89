"""Prefill of transformers' decoders that reads slots at the positions of their members; see `zoo.members`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..zoo.members import Members, in_place, seen_up_to, taken
from .attention import KeyValue
from .positions import Positions, axes


class Decoder(Protocol):
    """What is read of a `LanguageDecoder`."""

    @property
    def model(self) -> Any:
        """Of transformers, without its head."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def attending(self) -> list[int]:
        """The layers that have keys and values."""

    @property
    def positions(self) -> Positions:
        """Of the N tokens."""

    @property
    def offset(self) -> int:
        """Ids before the tokens."""

    @property
    def prompt_length(self) -> int:
        """P."""

    @property
    def image_sees(self) -> str:
        """See there."""


@dataclass(frozen=True)
class ByPosition:
    """The keys and values of one prefill; called with a layer's attention, its keys and values [B, G, P + K, d].

    Attributes:
        slot: see `Members`.
        turned: kind of layer, where they rotate differently, else "" -> cos and sin of the distance from each member's
            slot to it, as the model's rotary embedding gives them.
        rotating: the layers whose keys have positions at all; see `rotating_in`.
        offset: ids before the tokens.
        keep: K.
    """

    slot: Tensor
    turned: Mapping[str, tuple[Tensor, Tensor]]
    rotating: Collection[int]
    offset: int
    keep: int

    @classmethod
    def of(cls, decoder: Decoder, rotating: Collection[int], members: Members, kept: Tensor) -> ByPosition:
        """Find the rotations.

        Args:
            decoder: whose prefill it is.
            rotating: its layers that rotate.
            members: of the kept tokens.
            kept: [B, K] int64.
        """
        model, rows = decoder.model, decoder.positions.rows
        away = rows[:, None] - rows[:, kept.gather(1, members.slot)]
        turned = {}
        for kind in getattr(model.rotary_emb, "layer_types", [""]):
            cos, sin = model.rotary_emb(members.bias, axes(away), *([kind] if kind else []))
            # What scales a rotation, as YaRN does, has scaled the key already.
            scale = getattr(model.rotary_emb, f"{kind}_attention_scaling" if kind else "attention_scaling")
            turned[kind] = cos / scale, sin / scale
        return cls(members.slot, turned, rotating, decoder.offset, kept.shape[1])

    def __call__(self, module: nn.Module, key: Tensor, value: Tensor) -> KeyValue:
        """[B, G, P + N, d] of both: those of the members in the place of the slots."""

        def turned(slots: Tensor) -> Tensor:
            keys = taken(slots, self.slot)
            if module.layer_idx in self.rotating:
                # By the layer's own code: families pair channels differently, and some rotate only a part of them.
                rotate: Any = sys.modules[type(module).__module__].apply_rotary_pos_emb
                kind = "" if "" in self.turned else str(module.layer_type)
                keys = rotate(keys, keys, *self.turned[kind])[1]
            return keys

        at = self.offset, self.keep
        return in_place(key, *at, turned), in_place(value, *at, lambda slots: taken(slots, self.slot))


@torch.no_grad()
def rotating_in(decoder: Decoder) -> frozenset[int]:
    """The layers whose attention reads positions; in some models, such as SmolLM3, every fourth one does not.

    Each is asked about two tokens near each other and far apart: no name says it in all families.
    """
    model, found = decoder.model, set()
    hidden = torch.linspace(-1, 1, 2 * decoder.dim).reshape(1, 2, -1).sin()
    mask, near = torch.zeros(1, 1, 2, 2), torch.tensor([[0, 1]])
    for layer in decoder.attending:
        attention = model.layers[layer].self_attn
        kind = [attention.layer_type] if hasattr(model.rotary_emb, "layer_types") else []
        said = []
        for far in (1, 100):
            places = torch.tensor([0, far]).expand(len(decoder.positions.rows), 1, -1)
            turned = model.rotary_emb(hidden, axes(places), *kind)
            said.append(attention(hidden, position_embeddings=turned, attention_mask=mask, position_ids=near)[0])
        if not torch.equal(*said):
            found.add(layer)
    return frozenset(found)


def by_position(
    decoder: Decoder, rotating: Collection[int], kept: Tensor, assignment: Tensor, token_bias: Tensor, last: Tensor
) -> tuple[Tensor, ByPosition]:
    """What prefill is told to read the members of its slots.

    Args:
        decoder: whose prefill it is.
        rotating: its layers that rotate.
        kept: [B, K] int64.
        assignment: [B, N] int64.
        token_bias: [B, K].
        last: [B] int64, the place of the prompt's last id among P + K.

    Returns:
        The mask [B, 1, P + K, P + N], and the keys that it is for.
    """
    rows, offset, length = decoder.positions.rows, decoder.offset, decoder.prompt_length
    members = Members.of(kept, assignment, token_bias)
    mask = _seen(decoder, kept, rows.shape[1], last)
    bias = F.pad(members.bias, (offset, length - offset))
    return mask + bias[:, None, None], ByPosition.of(decoder, rotating, members, kept)


def _seen(decoder: Decoder, kept: Tensor, tokens: int, last: Tensor) -> Tensor:
    """Who sees whom, [B, 1, P + K, P + N]."""
    keep, offset, whole = kept.shape[1], decoder.offset, decoder.prompt_length + tokens
    ids = torch.arange(whole).expand(len(kept), -1)
    place = torch.cat([ids[:, :offset], kept + offset, ids[:, offset + tokens :]], 1)
    mask = seen_up_to(place, whole)
    if decoder.image_sees == "image":
        asks, is_read = (
            (offset <= one) & (one < offset + tokens) for one in (place[:, None, :, None], ids[:, None, None])
        )
        return torch.where(asks & is_read, 0.0, mask)
    if decoder.image_sees == "prompt":
        return torch.where(ids[:, None, None] <= (last + tokens - keep)[:, None, None, None], 0.0, mask)
    return mask
