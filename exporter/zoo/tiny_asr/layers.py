"""The network of tiny-asr in plain PyTorch: the encoder and decoder of Whisper, small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..decoding import attend_past, causal_mask
from .text import VOCABULARY


@dataclass(frozen=True)
class TinyASRConfig:
    """Every size of the model; the defaults are those of the shipped weights."""

    mels: int = 80
    frames: int = 400
    dim: int = 96
    heads: int = 3
    mlp: int = 384
    encoder_layers: int = 4
    layers: int = 2
    prompt_length: int = 4
    max_new: int = 8
    vocab: int = len(VOCABULARY)

    @property
    def tokens(self) -> int:
        """N, the tokens of one window: the second convolution has stride 2."""
        return self.frames // 2

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.heads

    @property
    def capacity(self) -> int:
        """Length of the KV cache of self-attention, P + max_new; the tokens of the sound are not in it."""
        return self.prompt_length + self.max_new


class Attention(nn.Module):
    """Multi-head attention; separate q, k, v, so that keys and queries have names in a graph; k without a bias."""

    def __init__(self, config: TinyASRConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(dim, dim),
            nn.Linear(dim, dim, bias=False),
            nn.Linear(dim, dim),
        )
        self.out_proj = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> Tensor:
        """[B, n, D] -> [B, H, n, D / H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, m, D] -> key and value, each [B, H, m, dh]."""
        return self.split(self.k_proj(x)), self.split(self.v_proj(x))

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, n, D], key and value [B, H, m, dh], mask [B or 1, 1, n or 1, m], added to the logits -> [B, n, D]."""
        return self.join(F.scaled_dot_product_attention(self.split(self.q_proj(x)), key, value, attn_mask=mask))

    def step(self, x: Tensor, new: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """x [B, 1, D], see `attend_past` for the others -> [B, 1, D]."""
        return self.join(attend_past(self.split(self.q_proj(x)), new, past, mask))

    def join(self, read: Tensor) -> Tensor:
        """What the heads have read [B, H, n, dh] -> [B, n, D]."""
        return self.out_proj(read.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Pre-LN transformer block."""

    def __init__(self, config: TinyASRConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(config)
        self.fc1, self.fc2 = nn.Linear(dim, config.mlp), nn.Linear(config.mlp, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        y = self.norm1(x)
        x = x + self.attention(y, *self.attention.keys(y))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def sinusoids(length: int, dim: int) -> Tensor:
    """Whisper's positions [length, dim]: sines in the first half, cosines in the second; wavelengths up to 2e4 pi."""
    frequency = torch.exp(-math.log(10000) / (dim // 2 - 1) * torch.arange(dim // 2))
    angle = torch.arange(length)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


class AudioEncoder(nn.Module):
    """Two convolutions, sinusoidal positions, pre-LN blocks, a final norm."""

    positions: Tensor

    def __init__(self, config: TinyASRConfig) -> None:
        super().__init__()
        dim = config.dim
        self.conv1 = nn.Conv1d(config.mels, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.register_buffer("positions", sinusoids(config.tokens, dim), persistent=False)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, input_features: Tensor) -> Tensor:
        """Log-mel [B, mels, frames] float32 -> tokens [B, N, D], position embeddings included."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(input_features)))).transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class DecoderLayer(nn.Module):
    """Pre-LN block of causal self-attention, cross-attention to the tokens, and an MLP."""

    def __init__(self, config: TinyASRConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention, self.cross_attention = Attention(config), Attention(config)
        self.fc1, self.fc2 = nn.Linear(dim, config.mlp), nn.Linear(config.mlp, dim)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Self-attention's key and value of this block's input: [B, n, D] -> each [B, H, n, dh]."""
        return self.attention.keys(self.norm1(x))

    def forward(
        self, x: Tensor, own: tuple[Tensor, Tensor], mask: Tensor, cross: tuple[Tensor, Tensor], bias: Tensor
    ) -> Tensor:
        """x [B, n, D]; keys and values: own [B, H, m, dh] under mask [1 or B, 1, n, m], cross [B, H, K, dh] under
        bias [B, 1, 1, K] -> [B, n, D]."""
        return self.finish(x + self.attention(self.norm1(x), *own, mask), cross, bias)

    def step(
        self,
        x: Tensor,
        new: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor],
        mask: Tensor,
        cross: tuple[Tensor, Tensor],
        bias: Tensor,
    ) -> Tensor:
        """As `forward` for one token [B, 1, D], whose own key and value are `new`; see `attend_past`."""
        return self.finish(x + self.attention.step(self.norm1(x), new, past, mask), cross, bias)

    def finish(self, x: Tensor, cross: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """The block behind self-attention: [B, n, D] -> [B, n, D]."""
        x = x + self.cross_attention(self.norm2(x), *cross, bias)
        return x + self.fc2(F.gelu(self.fc1(self.norm3(x))))


class TextDecoder(nn.Module):
    """Learned positions, blocks, a final norm, and tied embeddings as the output layer."""

    def __init__(self, config: TinyASRConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab, config.dim)
        self.positions = nn.Parameter(torch.randn(config.capacity, config.dim) * 0.1)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    @property
    def blocks(self) -> list[DecoderLayer]:
        """The layers with their type, which ModuleList loses."""
        return cast("list[DecoderLayer]", list(self.layers))

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return F.linear(self.norm(hidden), self.embedding.weight)

    def forward(self, input_ids: Tensor, tokens: Tensor) -> Tensor:
        """Ids int64 [B, T] and tokens [B, N, D] -> logits of every position [B, T, V]."""
        length = input_ids.shape[1]
        x, mask = self.embedding(input_ids) + self.positions[:length], causal_mask(length)
        none = tokens.new_zeros(1, 1, 1, tokens.shape[1])
        for layer in self.blocks:
            x = layer(x, layer.keys(x), mask, layer.cross_attention.keys(tokens), none)
        return self.logits(x)
