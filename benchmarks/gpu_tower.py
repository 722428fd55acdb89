"""The tower before a compressor, CLIP-L/336 with random weights: compressors are limited to a share of its time."""

from __future__ import annotations

import torch
from gpu_clock import Call

TOKENS, DIM, HEADS, LAYERS = 577, 1024, 16, 24


def tower(device: str, layers: int = LAYERS, tokens: int = TOKENS) -> Call:
    """A call of the blocks on one image in float16: fused attention, no patch embedding, random weights."""
    block = torch.nn.TransformerEncoderLayer(
        DIM, HEADS, 4 * DIM, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    blocks = torch.nn.TransformerEncoder(block, layers, enable_nested_tensor=False).eval().to(device, torch.float16)
    x = torch.randn(1, tokens, DIM, device=device, dtype=torch.float16)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return blocks(x)

    return call
