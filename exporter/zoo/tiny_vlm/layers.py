"""The network of tiny-vlm in plain PyTorch: a ViT, and a Llama-like decoder with positions and masks as inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .text import VOCABULARY


@dataclass(frozen=True)
class TinyVLMConfig:
    """Every size of the model; the defaults are those of the shipped weights."""

    image: int = 96
    frames: int = 1
    patch: int = 8
    grid: tuple[int, int] = (12, 12)
    vision_dim: int = 96
    vision_layers: int = 4
    vision_heads: int = 3
    vision_mlp: int = 192
    dim: int = 96
    layers: int = 3
    heads: int = 3
    mlp: int = 192
    prompt_length: int = 16
    offset: int = 1
    max_new: int = 8
    vocab: int = len(VOCABULARY)
    rope_theta: float = 10000.0

    @property
    def places(self) -> int:
        """Patches of one frame."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """N, the visual tokens of one image or clip."""
        return self.frames * self.places

    @property
    def head_dim(self) -> int:
        """Channels of one decoder head."""
        return self.dim // self.heads

    def sequence(self, keep: int) -> int:
        """Length of the prefill sequence, P + K."""
        return self.prompt_length + keep

    def capacity(self, keep: int) -> int:
        """Length of the KV cache, P + K + max_new."""
        return self.sequence(keep) + self.max_new


class VisionLayer(nn.Module):
    """Pre-LN transformer block of the encoder; separate q, k, v, so that keys and queries have names in a graph."""

    def __init__(self, config: TinyVLMConfig) -> None:
        super().__init__()
        dim = config.vision_dim
        self.heads = config.vision_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, config.vision_mlp), nn.Linear(config.vision_mlp, dim)

    def split(self, x: Tensor) -> Tensor:
        """[B, n, D] -> [B, H, n, D / H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, Dv] -> [B, n, Dv]."""
        y = self.norm1(x)
        y = F.scaled_dot_product_attention(
            self.split(self.q_proj(y)), self.split(self.k_proj(y)), self.split(self.v_proj(y))
        )
        x = x + self.out_proj(y.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def cls_attention(self, x: Tensor) -> Tensor:
        """CLS attention to the patches, mean over heads, from this layer's input: [B, 1 + N, Dv] -> [B, N]."""
        y = self.norm1(x)
        query, key = self.split(self.q_proj(y[:, :1])), self.split(self.k_proj(y))
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return weights.mean(1)[:, 0, 1:]


class VisionTransformer(nn.Module):
    """ViT with a CLS token; no final norm, like the layer of CLIP that LLaVA reads, so that token norms are kept."""

    def __init__(self, config: TinyVLMConfig) -> None:
        super().__init__()
        dim = config.vision_dim
        self.patch_embed: nn.Module = nn.Conv2d(3, dim, config.patch, config.patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 1 + config.places, dim) * 0.02)
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.vision_layers))

    def embed(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, H, W] float32 -> [B, 1 + places, Dv], CLS first."""
        patches = self.patch_embed(pixel_values).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], 1) + self.positions

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, 96, 96] float32, normalised with mean .5 and std .5 -> [B, 1 + N, Dv], CLS first."""
        x = self.embed(pixel_values)
        for layer in self.layers:
            x = layer(x)
        return x

    def with_cls_attention(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and the attention that CLS pays each patch in the last layer, [B, N]."""
        x = self.embed(pixel_values)
        for layer in self.layers[:-1]:
            x = layer(x)
        last = cast(VisionLayer, self.layers[-1])
        return last(x), last.cls_attention(x)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [B, H, n, dh] by cos, sin [B, 1, n, dh / 2], halves paired as in Llama."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class RMSNorm(nn.Module):
    """Zhang and Sennrich 2019, written out: an ONNX opset before 23 has no operator for nn.RMSNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> the same, of root mean square 1 times the weight."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class DecoderLayer(nn.Module):
    """Llama block: RMSNorm, rotary attention under an additive mask, SwiGLU."""

    def __init__(self, config: TinyVLMConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)
        self.q_proj, self.k_proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.v_proj, self.out_proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.gate, self.up = nn.Linear(dim, config.mlp, bias=False), nn.Linear(dim, config.mlp, bias=False)
        self.down = nn.Linear(config.mlp, dim, bias=False)

    def qkv(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, n, D] -> rotated query, rotated key and value, each [B, H, n, dh]."""
        x = self.norm1(x)
        query, key, value = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def attend(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """The block behind `qkv`: x [B, n, D], query [B, H, n, dh], key and value [B, H, m, dh], mask [B or 1, 1, n, m]
        -> [B, n, D]."""
        return self.finish(x, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))

    def finish(self, x: Tensor, read: Tensor) -> Tensor:
        """The block behind attention: x [B, n, D] and what its heads have read [B, H, n, dh] -> [B, n, D]."""
        x = x + self.out_proj(read.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Causal language model with tied embeddings; positions and masks are inputs."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TinyVLMConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab, config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim)
        # A table, not cos(position * frequency) in the graph: that product loses its precision in float16.
        half = config.head_dim // 2
        frequency = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(config.capacity(config.tokens), dtype=torch.float64)[:, None] * frequency
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    @property
    def blocks(self) -> list[DecoderLayer]:
        """The layers with their type, which ModuleList loses."""
        return cast("list[DecoderLayer]", list(self.layers))

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions int64 [B, n] -> cos, sin [B, 1, n, dh / 2]."""
        return F.embedding(positions, self.cos)[:, None], F.embedding(positions, self.sin)[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return F.linear(self.norm(hidden), self.embedding.weight)

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Embeds [B, S, D], positions int64 [B, S], additive mask [B or 1, 1, S, S] -> logits [B, S, V]."""
        cos, sin = self.rotary(positions)
        for layer in self.blocks:
            embeds = layer.attend(embeds, *layer.qkv(embeds, cos, sin), mask)
        return self.logits(embeds)
