"""tiny-asr and the three modules that are exported from it.

The generation contract, shared by training and every exported graph (`attention: cross` in `runtimes.bundle.manifest`):

- The text is `<bos>` and the words, right padded to P. The tokens of the sound are not in it: cross-attention reads
  them.
- The encoder adds position embeddings to the tokens, so the tokens that a compressor keeps need no positions.
- `token_bias` = log(sizes) is added to the logits of the K keys of cross-attention in every decoder block.
- `prefill` computes the keys and values of cross-attention once; `decode` only reads them.
- Generated words go to the slots `last_index + 1`, `+ 2`, ... of the caches, over the padding. `decode` sees the slots
  before its own and returns the key and value that the caller writes there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..decoding import below, causal_mask
from .layers import AudioEncoder, TextDecoder, TinyASRConfig

__all__ = ["Decode", "Encoder", "Prefill", "TinyASR", "TinyASRConfig", "load"]

WEIGHTS = Path(__file__).with_name("weights.safetensors")


class TinyASR(nn.Module):
    """The whole model; `forward` is the uncompressed pass it was trained with."""

    def __init__(self, config: TinyASRConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TinyASRConfig()
        self.encoder = AudioEncoder(config)
        self.decoder = TextDecoder(config)

    def forward(self, input_features: Tensor, input_ids: Tensor) -> Tensor:
        """Log-mel [B, 80, 400] float32 and ids int64 [B, T] -> logits of every position [B, T, V]."""
        return self.decoder(input_ids, self.encoder(input_features))


def load(path: Path = WEIGHTS) -> TinyASR:
    """Read the shipped weights (stored as float16, returned as float32) into a model in eval mode."""
    from safetensors.torch import load_file

    model = TinyASR()
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return model.eval()


class Encoder(nn.Module):
    """input_features [B, 80, 400] float32 -> tokens [B, N, D]."""

    def __init__(self, model: TinyASR) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, input_features: Tensor) -> Tensor:
        """See the class."""
        return self.encoder(input_features)


class Prefill(nn.Module):
    """input_ids [B, P] int64, tokens [B, K, D], token_bias [B, K] float32, last_index [B] int64 -> logits [B, V] at
    last_index, then present_key_i, present_value_i [B, H, capacity, dh] and cross_key_i, cross_value_i [B, H, K, dh] of
    every layer; works for any K.

    The caches are zero after P.
    """

    mask: Tensor

    def __init__(self, model: TinyASR) -> None:
        super().__init__()
        config = model.config
        self.decoder, self.length, self.spare = model.decoder, config.prompt_length, config.max_new
        self.register_buffer("mask", causal_mask(config.prompt_length), persistent=False)

    def forward(self, input_ids: Tensor, tokens: Tensor, token_bias: Tensor, last_index: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        x = self.decoder.embedding(input_ids) + self.decoder.positions[: self.length]
        bias = token_bias[:, None, None]
        present: list[Tensor] = []
        crossed: list[Tensor] = []
        for layer in self.decoder.blocks:
            own, cross = layer.keys(x), layer.cross_attention.keys(tokens)
            x = layer(x, own, self.mask, cross, bias)
            present += [F.pad(part, (0, 0, 0, self.spare)) for part in own]
            crossed += cross
        last = x.gather(1, last_index[:, None, None].expand(-1, -1, x.shape[2]))
        return self.decoder.logits(last[:, 0]), *present, *crossed


class Decode(nn.Module):
    """input_ids [B, 1] int64, write_index [B] int64, token_bias [B, K] float32, past_key_i, past_value_i
    [B, H, capacity, dh] of every layer, then cross_key_i, cross_value_i [B, H, K, dh] of every layer -> logits [B, V],
    then new_key_i, new_value_i [B, H, 1, dh] of this token in self-attention.
    """

    slots: Tensor

    def __init__(self, model: TinyASR) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.register_buffer("slots", torch.arange(model.config.capacity)[None], persistent=False)

    def forward(
        self, input_ids: Tensor, write_index: Tensor, token_bias: Tensor, *caches: Tensor
    ) -> tuple[Tensor, ...]:
        """See the class."""
        index, bias = write_index[:, None], token_bias[:, None, None]
        mask = below(self.slots, index)[:, None, None]
        x = self.decoder.embedding(input_ids) + F.embedding(index, self.decoder.positions)
        pairs = list(zip(caches[::2], caches[1::2], strict=True))
        past, cross = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
        new: list[Tensor] = []
        for layer, cache, tokens in zip(self.decoder.blocks, past, cross, strict=True):
            own = layer.keys(x)
            x = layer.step(x, own, cache, mask, tokens, bias)
            new += own
        return self.decoder.logits(x[:, 0]), *new
