"""tiny-vlm and the four modules that are exported from it.

The generation contract, shared by training and every exported graph:

- A sequence is `<bos>`, the visual tokens, then the remaining ids of the prompt, right padded: length P + K.
- Positions are those of the uncompressed sequence: visual slot k has position `offset + kept_indices[k]`, and text
  after the image keeps the position it would have with all N tokens.
- `token_bias` = log(sizes) is added to the attention logits of the K visual keys in every decoder block.
- Generated tokens go to the slots `last_index + 1`, `+ 2`, ... of the caches, over the padding. `decode` sees the slots
  before its own and returns the key and value that the caller writes there.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..decoding import attend_past, below, causal_mask
from ..members import Members, in_place, seen_up_to, taken
from .layers import Decoder, TinyVLMConfig, VisionTransformer, rotate

__all__ = [
    "Decode",
    "Embed",
    "Encoder",
    "Prefill",
    "TinyVLM",
    "TinyVLMConfig",
    "WideEncoder",
    "load",
    "load_wide_projector",
    "read",
    "smaller",
    "wide_projector",
]

WEIGHTS = Path(__file__).with_name("weights.safetensors")
PROJECTOR = Path(__file__).with_name("projector_r2.safetensors")
BLOCK = 2  # r of the second projector


class TinyVLM(nn.Module):
    """The whole model; `forward` is the uncompressed pass it was trained with."""

    def __init__(self, config: TinyVLMConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TinyVLMConfig()
        self.vision = VisionTransformer(config)
        # Strictly per token and without a norm, so that a compressor may be on either side of it.
        self.projector = nn.Sequential(
            nn.Linear(config.vision_dim, config.dim), nn.GELU(), nn.Linear(config.dim, config.dim)
        )
        self.decoder = Decoder(config)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, 96, 96] float32 -> visual tokens [B, N, D]."""
        return self.projector(self.vision(pixel_values)[:, 1:])

    def splice(self, input_ids: Tensor, tokens: Tensor) -> Tensor:
        """Ids int64 [B, T] and visual tokens [B, K, D] -> embeddings [B, T + K, D], the image after `<bos>`."""
        text, offset = self.decoder.embedding(input_ids), self.config.offset
        return torch.cat([text[:, :offset], tokens, text[:, offset:]], 1)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """[B, 3, 96, 96] float32 and ids int64 [B, T] -> logits of every position [B, T + N, V]."""
        embeds = self.splice(input_ids, self.encode(pixel_values))
        length = embeds.shape[1]
        return self.decoder(embeds, torch.arange(length)[None], causal_mask(length))


M = TypeVar("M", bound=nn.Module)


def read(module: M, path: Path) -> M:
    """Read weights that are stored as float16 into a module, as float32, and put it into eval mode."""
    from safetensors.torch import load_file

    module.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return module.eval()


def load(path: Path = WEIGHTS) -> TinyVLM:
    """Read the shipped weights into a model."""
    return read(TinyVLM(), path)


def smaller(model: TinyVLM, grid: tuple[int, int]) -> TinyVLM:
    """The model for pictures of another grid of patches, over the same weights; its positions are interpolated."""
    shared = {id(value): value for value in model.parameters()}
    made = copy.deepcopy(model, shared)
    cls, table = model.vision.positions.split([1, model.config.places], 1)
    table = table.transpose(1, 2).unflatten(2, model.config.grid)
    table = F.interpolate(table, size=grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    made.vision.positions = nn.Parameter(torch.cat([cls, table], 1).detach(), requires_grad=False)
    return made


def wide_projector(config: TinyVLMConfig) -> nn.Sequential:
    """The second projector, [B, K, r^2 Dv] -> [B, K, D] for blocks of r x r patches, with random weights."""
    wide = BLOCK**2 * config.vision_dim
    return nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, config.dim))


def load_wide_projector(config: TinyVLMConfig, path: Path = PROJECTOR) -> nn.Sequential:
    """Read the shipped weights of the second projector."""
    return read(wide_projector(config), path)


class Encoder(nn.Module):
    """pixel_values [B, 3, 96, 96] float32 -> tokens [B, N, D]."""

    def __init__(self, model: TinyVLM) -> None:
        super().__init__()
        self.vision, self.projector = model.vision, model.projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See the class."""
        return self.projector(self.vision(pixel_values)[:, 1:])


class Widen(nn.Module):
    """[B, n, D] -> [B, n, times D], each token repeated: a placeholder for a compressor that widens tokens."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        return torch.cat([tokens] * self.times, -1)


class WideEncoder(nn.Module):
    """The encoder with the second projector; its tokens have a meaning only after PLACEHOLDER was replaced."""

    PLACEHOLDER = "placeholder"

    def __init__(self, model: TinyVLM, projector: nn.Module) -> None:
        super().__init__()
        self.vision, self.placeholder, self.projector = model.vision, Widen(BLOCK**2), projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values [B, 3, 96, 96] float32 -> [B, N, D]."""
        return self.projector(self.placeholder(self.vision(pixel_values)[:, 1:]))


class Embed(nn.Module):
    """input_ids [B, P] int64, tokens [B, K, D] -> inputs_embeds [B, P + K, D]; works for any K."""

    def __init__(self, model: TinyVLM) -> None:
        super().__init__()
        self.embedding, self.offset = model.decoder.embedding, model.config.offset

    def forward(self, input_ids: Tensor, tokens: Tensor) -> Tensor:
        """See the class."""
        text = self.embedding(input_ids)
        return torch.cat([text[:, : self.offset], tokens, text[:, self.offset :]], 1)


class Prefill(nn.Module):
    """inputs_embeds [B, P + K, D], kept_indices [B, K] int64, token_bias [B, K] float32, last_index [B] int64, where
    members are read assignment [B, N] int64 -> logits [B, V] at last_index, then present_key_i, present_value_i
    [B, H, capacity, dh] of every layer.

    last_index counts in the spliced sequence (K + index in the prompt); the caches are zero after P + K.
    """

    mask: Tensor
    text_positions: Tensor

    def __init__(self, model: TinyVLM, keep: int) -> None:
        super().__init__()
        config = model.config
        self.decoder, self.offset = model.decoder, config.offset
        length = config.sequence(keep)
        self.after = length - config.offset - keep
        self.spare = config.capacity(keep) - length
        self.register_buffer("mask", causal_mask(length), persistent=False)
        text = torch.arange(config.prompt_length)
        text = torch.where(text < config.offset, text, text + config.tokens)
        self.register_buffer("text_positions", text[None], persistent=False)

    def forward(
        self,
        inputs_embeds: Tensor,
        kept_indices: Tensor,
        token_bias: Tensor,
        last_index: Tensor,
        assignment: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See the class."""
        text = self.text_positions.expand(inputs_embeds.shape[0], -1)
        positions = torch.cat([text[:, : self.offset], kept_indices + self.offset, text[:, self.offset :]], 1)
        cos, sin = self.decoder.rotary(positions)
        members = None if assignment is None else Members.of(kept_indices, assignment, token_bias)
        bias = token_bias if members is None else members.bias
        mask = self.mask if members is None else seen_up_to(positions, self.after + self.offset + bias.shape[1])
        mask = mask + F.pad(bias, (self.offset, self.after))[:, None, None]
        x, present = inputs_embeds, []
        for layer in self.decoder.blocks:
            query, key, value = layer.qkv(x, cos, sin)
            read = (key, value) if members is None else self._read(key, value, members, cos, sin)
            x = layer.attend(x, query, *read, mask)
            present += [F.pad(key, (0, 0, 0, self.spare)), F.pad(value, (0, 0, 0, self.spare))]
        last = x.gather(1, last_index[:, None, None].expand(-1, -1, x.shape[2]))
        return self.decoder.logits(last[:, 0]), *present

    def _read(self, key: Tensor, value: Tensor, members: Members, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, P + N, dh] of the members, each at its own position, in the place of their slots."""
        keep = key.shape[2] - self.offset - self.after
        at, places = slice(self.offset, self.offset + keep), torch.arange(members.slot.shape[1])[None] + self.offset

        def turned(slots: Tensor) -> Tensor:
            unrotated = rotate(slots, cos[:, :, at], -sin[:, :, at])
            return rotate(taken(unrotated, members.slot), *self.decoder.rotary(places))

        values = in_place(value, self.offset, keep, lambda slots: taken(slots, members.slot))
        return in_place(key, self.offset, keep, turned), values


class Decode(nn.Module):
    """input_ids [B, 1] int64, write_index [B] int64, token_bias [B, K] float32, past_key_i, past_value_i
    [B, H, capacity, dh] of every layer -> logits [B, V], then new_key_i, new_value_i [B, H, 1, dh] of this token.
    """

    slots: Tensor

    def __init__(self, model: TinyVLM, keep: int) -> None:
        super().__init__()
        config = model.config
        self.decoder, self.offset = model.decoder, config.offset
        capacity = config.capacity(keep)
        self.after = capacity - config.offset - keep
        self.removed = config.tokens - keep
        self.register_buffer("slots", torch.arange(capacity)[None], persistent=False)

    def forward(self, input_ids: Tensor, write_index: Tensor, token_bias: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        index = write_index[:, None]
        mask = (below(self.slots, index) + F.pad(token_bias, (self.offset, self.after)))[:, None, None]
        cos, sin = self.decoder.rotary(index + self.removed)
        x = self.decoder.embedding(input_ids)
        new: list[Tensor] = []
        for layer, *cache in zip(self.decoder.blocks, past[::2], past[1::2], strict=True):
            query, *own = layer.qkv(x, cos, sin)
            x = layer.finish(x, attend_past(query, (own[0], own[1]), (cache[0], cache[1]), mask))
            new += own
        return self.decoder.logits(x[:, 0]), *new
