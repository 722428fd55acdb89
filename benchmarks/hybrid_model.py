"""tiny-vlm with two of its three attentions made Gated DeltaNet, trained here: a hybrid that answers questions.

    python benchmarks/hybrid_model.py build/hybrid.safetensors       five minutes of one core

The encoder, and all that the decoder has beside these layers, begin as the shipped tiny-vlm; the decoder is trained.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import cast

import torch
from tokexport.exporter.decoders.states import counted, in_chunks, normalised
from tokexport.exporter.zoo.decoding import MASKED
from tokexport.exporter.zoo.tiny_vlm.layers import DecoderLayer, TinyVLMConfig
from tokexport.exporter.zoo.tiny_vlm.model import TinyVLM, load, read
from tokexport.exporter.zoo.tiny_vlm.scenes import pixel_values
from tokexport.exporter.zoo.tiny_vlm.text import BOS
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "tools/training"))
from lessons_tiny_vlm import IGNORED, draw
from training import adamw, cosine_rate, save

# Its layers that are linear attentions; as in Qwen3.5 the last one of a group attends.
LINEAR = (0, 1)
KERNEL, SCENES, CYCLES, RATE, SEED = 4, 8, (200, 300), 2e-3, 0x4B1D


class LinearLayer(DecoderLayer):
    """Gated DeltaNet with a short convolution and an output gate, in the place of a `DecoderLayer`'s attention."""

    def __init__(self, config: TinyVLMConfig) -> None:
        super().__init__(config)
        self.convolution = nn.Parameter(torch.zeros(3 * config.dim, 1, KERNEL))
        # Like no convolution at first, so that the weights of the attention mean what they meant.
        self.convolution.data[:, :, -1] = 1
        self.beta, self.decay = nn.Linear(config.dim, config.heads), nn.Linear(config.dim, config.heads)
        nn.init.constant_(self.decay.bias, -4.0)
        self.output_gate = nn.Linear(config.dim, config.dim, bias=False)
        self.read_norm = nn.RMSNorm(config.head_dim, eps=1e-5)

    def read(self, x: Tensor, repeats: Tensor, state: State | None) -> tuple[Tensor, State]:
        """x [B, n, D], how often each token counts [B, n], and what was carried -> [B, n, D], and what is carried."""
        y = self.norm1(x)
        columns = torch.cat([self.q_proj(y), self.k_proj(y), self.v_proj(y)], -1).transpose(1, 2)
        before = columns.new_zeros(*columns.shape[:2], KERNEL - 1) if state is None else state[0]
        columns = torch.cat([before, columns], 2)
        mixed = F.silu(F.conv1d(columns, self.convolution, groups=columns.shape[1])).transpose(1, 2)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in mixed.chunk(3, -1))
        decay = -F.softplus(self.decay(y)).transpose(1, 2)
        value, decay, beta = counted(value, decay, self.beta(y).transpose(1, 2), repeats[:, None])
        query, key = normalised(query) * query.shape[-1] ** -0.5, normalised(key)
        out, matrix = in_chunks(query, key, value, decay, beta, None if state is None else state[1])
        out = self.read_norm(out.transpose(1, 2)).flatten(2) * F.silu(self.output_gate(y))
        return self.finish(x, out.unflatten(-1, (self.heads, -1)).transpose(1, 2)), (columns[..., 1 - KERNEL :], matrix)


# Columns and matrix of a linear layer, or key and value of one that attends.
State = tuple[Tensor, Tensor]


class Hybrid(nn.Module):
    """See the module docstring; `read` takes a part of a sequence after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.model: TinyVLM = load()
        for layer in LINEAR:
            made = LinearLayer(self.model.config)
            made.load_state_dict(self.model.decoder.layers[layer].state_dict(), strict=False)
            self.model.decoder.layers[layer] = made
        self.model.vision.requires_grad_(False)

    def read(
        self, x: Tensor, positions: Tensor, bias: Tensor, repeats: Tensor, carried: list[State] | None = None
    ) -> tuple[Tensor, list[State]]:
        """The decoder's layers.

        Args:
            x: [B, n, D].
            positions: [B, n] int64.
            bias: [B, m], added to the logits of all keys so far.
            repeats: [B, n], of the updates of linear layers.
            carried: of the part before.

        Returns:
            [B, n, D], and what is carried.
        """
        cos, sin = self.model.decoder.rotary(positions)
        new: list[State] = []
        for number, layer in enumerate(self.model.decoder.blocks):
            before = None if carried is None else carried[number]
            if isinstance(layer, LinearLayer):
                x, state = layer.read(x, repeats, before)
            else:
                query, key, value = layer.qkv(x, cos, sin)
                if before is not None:
                    key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
                state = key, value
                mask = torch.full((x.shape[1], key.shape[2]), MASKED).triu(key.shape[2] - x.shape[1] + 1)
                x = layer.attend(x, query, key, value, mask + bias[:, None, None])
            new.append(state)
        return x, new

    def picture(self, tokens: Tensor, kept: Tensor, bias: Tensor, repeats: Tensor) -> tuple[list[State], Tensor]:
        """<bos> and the tokens [B, K, D] at `kept` [B, K]; returns what is carried, and the bias [B, 1 + K]."""
        embedding, offset = self.model.decoder.embedding, self.model.config.offset
        bos = embedding(torch.full((len(tokens), offset), BOS))
        positions = torch.cat([torch.zeros_like(kept[:, :offset]), kept + offset], 1)
        bias, repeats = F.pad(bias, (offset, 0)), F.pad(repeats, (offset, 0), value=1.0)
        _, carried = self.read(torch.cat([bos, tokens], 1), positions, bias, repeats)
        return carried, bias

    def words(self, ids: Tensor, carried: list[State], bias: Tensor) -> Tensor:
        """Logits [B, n, V] behind each of the ids [B, n] that stand behind the picture."""
        config = self.model.config
        x, positions = self.model.decoder.embedding(ids), config.offset + config.tokens + torch.arange(ids.shape[1])
        bias = F.pad(bias, (0, ids.shape[1]))
        x, _ = self.read(x, positions.expand(len(ids), -1), bias, torch.ones(ids.shape), carried)
        return self.model.decoder.logits(x)


def spread(carried: list[State], rows: Tensor) -> list[State]:
    """What the questions of each picture read; `rows` says which picture that is."""
    return [cast("State", tuple(part[rows] for part in state)) for state in carried]


def train(out: Path) -> None:
    """The cycles of AdamW that are not in `out` yet, on fresh scenes, eight questions each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for cycle, steps in enumerate(CYCLES):
        done = out.with_suffix(f".{cycle}")
        if not done.exists():
            _cycle(Hybrid() if cycle == 0 else trained(out.with_suffix(f".{cycle - 1}")), cycle, steps, done)
    save(trained(done), out)


def _cycle(hybrid: Hybrid, cycle: int, steps: int, out: Path) -> None:
    """Up to a learning rate of zero."""
    hybrid.train()
    began = time.monotonic()
    weights = [weight for weight in hybrid.parameters() if weight.requires_grad]
    optimizer = adamw(weights, 0.05)
    for step in range(steps):
        batch = draw((SEED + cycle, step), SCENES)
        with torch.no_grad():
            seen = hybrid.model.vision(torch.from_numpy(pixel_values(batch["pixels"])))[:, 1:]
        kept = torch.arange(seen.shape[1]).expand(SCENES, -1)
        none = torch.zeros(kept.shape)
        carried, bias = hybrid.picture(hybrid.model.projector(seen), kept, none, none + 1)
        ids, targets = (torch.from_numpy(batch[name]).flatten(0, 1) for name in ("ids", "targets"))
        rows = torch.arange(SCENES).repeat_interleave(len(ids) // SCENES)
        logits = hybrid.words(ids, spread(carried, rows), bias[rows])
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(RATE, 20, steps, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 20 == 0:
            right = (logits.argmax(-1) == targets)[targets != IGNORED].float().mean()
            print(
                f"step {step}: loss {loss:.3f}, words right {right:.3f}, {time.monotonic() - began:.0f} s", flush=True
            )
    save(hybrid, out)


def trained(path: Path) -> Hybrid:
    """What `train` wrote."""
    return read(Hybrid(), path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    train(parser.parse_args().out)
