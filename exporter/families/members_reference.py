"""A prompt whose slots are read as all of their members, in transformers' own code, by hooks around its attentions.

Nothing here turns a key: every attention gets the whole uncompressed sequence, in which each token is a copy of its
slot, and of what it gives, and of what it caches, the rows of the slots' own places are kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from ..decoders.positions import axes

_NEVER = -1e9


class Whole:
    """The uncompressed sequence that stands for one prompt of L = P' + K ids and slots; L' = P' + N.

    Args:
        language: of transformers.
        span: where the K slots begin in the prompt, and P', its ids.
        kept: [1, K] int64.
        assignment: [1, N] int64.
        bias: [1, K], log of the sizes.
        positions: [R, 1, L'] int64, of the whole sequence.
        sees: see `LanguageDecoder.image_sees`.
    """

    def __init__(
        self,
        language: Any,
        span: tuple[int, int],
        kept: Tensor,
        assignment: Tensor,
        bias: Tensor,
        positions: Tensor,
        sees: Literal["before", "image", "prompt"],
    ) -> None:
        self._language = language
        start, ids = span
        slots, tokens = kept[0].tolist(), assignment.shape[1]
        into = {at: slot for at, slot in enumerate(assignment[0].tolist()) if slot >= 0}
        into = {place: slot for slot, place in enumerate(slots)} | into
        members = Counter(into.values())
        each = {at: float(bias[0, slot]) - math.log(members[slot]) for at, slot in into.items()}
        weights = [each.get(at, _NEVER) for at in range(tokens)]
        behind = range(start + len(slots), ids + len(slots))
        # Of each place in the whole sequence the one in the prompt, and of each of those the other.
        self._row = torch.tensor([*range(start), *(start + into.get(at, 0) for at in range(tokens)), *behind])
        self._own = torch.tensor([*range(start), *(start + at for at in slots), *(range(start + tokens, ids + tokens))])
        length = ids + tokens
        hidden = torch.ones(length, length).triu(1) * _NEVER
        if sees == "image":
            hidden[start : start + tokens, start : start + tokens] = 0
        if sees == "prompt":
            hidden[:] = 0
        hidden[:, start : start + tokens] += torch.tensor(weights)
        self._mask, self._positions, self._first = hidden[None, None], positions, 0

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, the language model reads a prompt so."""
        rotary = self._language.rotary_emb
        handles = [rotary.register_forward_pre_hook(self._count, with_kwargs=True)]
        for layer in self._language.layers:
            if hasattr(layer, "self_attn"):
                handles.append(layer.self_attn.register_forward_pre_hook(self._before, with_kwargs=True))
                handles.append(layer.self_attn.register_forward_hook(self._behind, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _count(self, _: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Positions begin at 1 in some families, whatever `generate` is given."""
        places = args[1] if len(args) > 1 else named["position_ids"]
        if places.shape[-1] > 1:
            self._first = int(places.flatten()[0] - self._positions.flatten()[self._own[0]])

    def _before(
        self, attention: Any, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = args[0] if args else named["hidden_states"]
        if hidden.shape[1] == 1:
            return args, named
        whole, rotary = hidden[:, self._row], self._language.rotary_emb.forward
        kind = [attention.layer_type] if hasattr(self._language.rotary_emb, "layer_types") else []
        places = axes(self._positions) + self._first
        changed = {**named, "attention_mask": self._mask, "position_embeddings": rotary(whole, places, *kind)}
        if named.get("position_ids") is not None:
            changed["position_ids"] = places if named["position_ids"].ndim == 2 == places.ndim else places[0]
        return ((whole, *args[1:]), changed) if args else (args, {**changed, "hidden_states": whole})

    def _behind(self, attention: Any, _: Any, named: dict[str, Any], output: tuple[Any, ...]) -> Any:
        if output[0].shape[1] == 1:
            return output
        cached = named["past_key_values"].layers[attention.layer_idx]
        cached.keys, cached.values = cached.keys[:, :, self._own], cached.values[:, :, self._own]
        if hasattr(cached, "cumulative_length"):
            cached.cumulative_length = len(self._own)
        return (output[0][:, self._own], *output[1:])
