"""A decoder with cross-attention (Whisper, Moonshine) as the graphs prefill and decode; see `runtimes.bundle.manifest`.

The decoder's own forward does the rest, so nothing of a family is written again here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sources.source import GraphSource
from ..zoo.decoding import MASKED, causal_mask
from .attention import Both, Given, Kept


class Prefill(nn.Module):
    """input_ids [B, P] int64, tokens [B, K, D], token_bias [B, K] float32, last_index [B] int64 -> logits [B, V] at
    last_index, then present_key_i, present_value_i [B, H, P + spare, d] and cross_key_i, cross_value_i [B, H, K, d] of
    every layer; works for any K.

    The caches are zero after P.

    Args:
        decoder: of transformers, with our attention (`attention.NAME`).
        head: [B, D] -> [B, V].
        length: P.
        spare: slots for what is decoded.
        bias: see `CrossDecoder`.
    """

    mask: Tensor
    positions: Tensor

    def __init__(self, decoder: nn.Module, head: nn.Module, length: int, spare: int, bias: str) -> None:
        super().__init__()
        self.decoder, self.head, self.spare, self.bias = decoder, head, spare, bias
        self.register_buffer("mask", causal_mask(length), persistent=False)
        self.register_buffer("positions", torch.arange(length)[None], persistent=False)

    def forward(self, input_ids: Tensor, tokens: Tensor, token_bias: Tensor, last_index: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        own, cross = Kept(), Kept()
        hidden = self.decoder(
            input_ids=input_ids,
            attention_mask=self.mask,
            encoder_hidden_states=tokens,
            past_key_values=Both(own, cross),
            position_ids=self.positions,
            use_cache=True,
            **{self.bias: token_bias[:, None, None]},
        ).last_hidden_state
        last = hidden.gather(1, last_index[:, None, None].expand(-1, -1, hidden.shape[2]))
        present = [F.pad(part, (0, 0, 0, self.spare)) for part in own.in_order()]
        return self.head(last[:, 0]), *present, *cross.in_order()


class Decode(nn.Module):
    """input_ids [B, 1] int64, write_index [B] int64, token_bias [B, K] float32, past_key_i, past_value_i
    [B, H, capacity, d] of every layer, then cross_key_i, cross_value_i [B, H, K, d] of every layer -> logits [B, V],
    then new_key_i, new_value_i [B, H, 1, d] of every layer.

    Slots of the past from write_index on are not seen.
    """

    slots: Tensor

    def __init__(self, decoder: nn.Module, head: nn.Module, capacity: int, bias: str) -> None:
        super().__init__()
        self.decoder, self.head, self.bias = decoder, head, bias
        self.register_buffer("slots", torch.arange(capacity)[None], persistent=False)

    def forward(
        self, input_ids: Tensor, write_index: Tensor, token_bias: Tensor, *caches: Tensor
    ) -> tuple[Tensor, ...]:
        """See the class."""
        index = write_index[:, None]
        pairs = list(zip(caches[::2], caches[1::2], strict=True))
        past, cross = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
        own = Kept()
        hidden = self.decoder(
            input_ids=input_ids,
            attention_mask=torch.where(self.slots < index, 0.0, MASKED)[:, None, None],
            # Only says that there is a cross-attention: its keys and values are given.
            encoder_hidden_states=token_bias,
            past_key_values=Both(own, Given(cross)),
            position_ids=index,
            use_cache=True,
            past=dict(enumerate(past)),
            **{self.bias: token_bias[:, None, None]},
        ).last_hidden_state
        return self.head(hidden[:, 0]), *own.in_order()


@dataclass(frozen=True)
class CrossDecoder:
    """A decoder, its sizes, and how its graphs are made.

    Attributes:
        decoder: of transformers, with our attention (`attention.NAME`), in eval mode.
        head: [B, D] -> [B, V].
        layers: of the decoder.
        heads: H, of keys and values.
        head_dim: d.
        dim: D of the tokens.
        prompt_length: P.
        capacity: of the caches of self-attention, P and what is decoded.
        pad: fills a prompt up to P.
        bias: the keyword argument [B, 1, 1, K] that the decoder hands to its cross-attention.
    """

    decoder: nn.Module
    head: nn.Module
    layers: int
    heads: int
    head_dim: int
    dim: int
    prompt_length: int
    capacity: int
    pad: int
    bias: str = "cross_bias"

    def graphs(self, keep: int, prompt: Sequence[int], word: int) -> list[GraphSource]:
        """prefill and decode for K = `keep`; the examples are a `prompt`, and a `word` after it."""
        names = [f"{kind}_{layer}" for layer in range(self.layers) for kind in ("key", "value")]
        past = (1, self.heads, self.capacity, self.head_dim)
        cross = (1, self.heads, keep, self.head_dim)
        bias = torch.zeros(1, keep)
        padding, spare = [self.pad] * (self.prompt_length - len(prompt)), self.capacity - self.prompt_length
        return [
            GraphSource(
                role="prefill",
                module=Prefill(self.decoder, self.head, self.prompt_length, spare, self.bias).eval(),
                inputs={
                    "input_ids": torch.tensor([[*prompt, *padding]]),
                    "tokens": torch.zeros(1, keep, self.dim),
                    "token_bias": bias,
                    "last_index": torch.tensor([len(prompt) - 1]),
                },
                outputs=("logits", *(f"present_{name}" for name in names), *(f"cross_{name}" for name in names)),
            ),
            GraphSource(
                role="decode",
                module=Decode(self.decoder, self.head, self.capacity, self.bias).eval(),
                inputs={
                    "input_ids": torch.tensor([[word]]),
                    "write_index": torch.tensor([len(prompt)]),
                    "token_bias": bias,
                    # A tensor for each: torch.export takes one that is given twice for one input.
                    **{f"past_{name}": torch.zeros(past) for name in names},
                    **{f"cross_{name}": torch.zeros(cross) for name in names},
                },
                outputs=("logits", *(f"new_{name}" for name in names)),
            ),
        ]
