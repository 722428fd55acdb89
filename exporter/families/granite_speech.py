"""Granite-Speech, also Plus: a conformer that sees blocks, queries to windows of its places, and a Granite.

    input_features [1, mels, frames] float32 -> tokens [1, N, D]; every two frames are a place, and every window of 15
    places gives 3 tokens: 10 a second

The model reads sounds of any length, and a graph takes one. What the folder's adapter adds to the language model, where
it has one, is added to its weights: transformers too has it on wherever there is a sound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig

from ...errors import RequestError
from ..sources import adapter
from ..sources.configuration import Layers, Width, built, typed
from ..sources.sound import granite_log_mel_of
from ..zoo.decoding import MASKED
from .audio_language import AudioLanguage, load, spoken_to
from .joined import encoder_of
from .layout import Layout, shell
from .two_parts import Language

if TYPE_CHECKING:
    from pathlib import Path

    from ..sources.checkpoint import Checkpoint
    from ..sources.source import GraphSource

_MARK = "<|audio|>"
_LAYOUT = Layout(
    media="audio",
    mark=_MARK,
    becomes=_MARK,
    written=True,
    joins="its queries read a window of tokens each",
    windows="its layers see blocks of neighbours",
    mark_is_zero=True,
)


class _Encoder(BaseModel):
    """What is read of the encoder."""

    input_dim: Width | None = None
    hidden_dim: Width | None = None
    num_layers: Layers | None = None
    num_heads: Width | None = None
    dim_head: Width | None = None
    output_dim: Width | None = None
    context_size: Width | None = None
    max_pos_emb: Width | None = None
    conv_kernel_size: Width | None = None
    cat_hidden_layers: list[Annotated[int, Field(ge=0)]] | None = None


class _Projector(BaseModel):
    """What is read of the queries' transformer."""

    hidden_size: Width | None = None
    encoder_hidden_size: Width | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Width | None = None


class _Config(BaseModel):
    """What is read of config.json."""

    encoder_config: _Encoder | None = None
    projector_config: _Projector | None = None
    text_config: Language | None = None
    audio_token_index: Annotated[int, Field(ge=0)] | None = None
    has_lora_adapter: bool = True
    window_size: Width | None = None
    downsample_rate: Width | None = None


class Blocks(NamedTuple):
    """How places see each other.

    Attributes:
        distances: int64 [size, size] in a block, rows of the table of positions.
        number: of blocks.
        behind: bool [number, 1, 1, size], what is no place; None where they fill the last block.
    """

    distances: Tensor
    number: int
    behind: Tensor | None


class Attention(nn.Module):
    """Of a conformer block: every place sees those of its block, also by their distance.

    transformers' own makes its mask in the graph, and writes it in place; and what becomes of a mask in PyTorch's
    attention, when it is exported, looks for rows in which nothing is seen, of which there are none.
    """

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.pre_norm, self.to_q, self.to_kv, self.to_out = own.pre_norm, own.to_q, own.to_kv, own.to_out
        self.rel_pos_emb, self.heads, self.scale = own.rel_pos_emb, own.num_heads, own.scale

    def forward(self, hidden_states: Tensor, attention_dists: Blocks) -> Tensor:
        """[1, L, D], and how they see each other -> [1, L, D]."""
        distances, number, behind = attention_dists
        places, size = hidden_states.shape[1], len(distances)
        x = F.pad(self.pre_norm(hidden_states), (0, 0, 0, number * size - places))
        query, both = self.to_q(x), self.to_kv(x)
        # Not by `chunk`, of whose parts the exported graph does not say that they are of this module.
        parts = (query, both[..., : query.shape[-1]], both[..., query.shape[-1] :])
        query, key, value = (y.reshape(number, size, self.heads, -1).transpose(1, 2) for y in parts)
        near = torch.einsum("bhcd,crd->bhcr", query, self.rel_pos_emb(distances))
        scores = (query @ key.transpose(2, 3) + near) * self.scale
        if behind is not None:
            scores = scores.masked_fill(behind, MASKED)
        out = scores.softmax(-1) @ value
        return self.to_out(out.transpose(1, 2).reshape(1, number * size, -1)[:, :places])


class GraniteEncoder(nn.Module):
    """The conformer for sounds of one length, and the projector; the modules are transformers' own.

    Args:
        model: of transformers, with the weights of both.
        frames: of a sound, an even number.
    """

    behind: Tensor | None

    def __init__(self, model: Any, frames: int) -> None:
        super().__init__()
        self.encoder, self.projector = model.encoder, model.projector
        for layer in self.encoder.layers:
            # An encoder for another length may have the same layers.
            if not isinstance(layer.attn, Attention):
                layer.attn = Attention(layer.attn)
        size, places = self.encoder.config.context_size, frames // 2
        self.blocks = math.ceil(places / size)
        behind = (torch.arange(self.blocks * size) >= places).reshape(self.blocks, 1, 1, size)
        self.register_buffer("behind", behind if places % size else None, persistent=False)
        self.tokens = math.ceil(places / self.projector.window_size) * self.projector.num_queries

    def forward(self, input_features: Tensor) -> Tensor:
        """[1, mels, frames] float32 -> [1, N, D]."""
        own = self.encoder
        x = input_features.transpose(1, 2).unflatten(1, (-1, 2)).flatten(2)
        blocks = Blocks(own.attention_dists, self.blocks, self.behind)
        states = [x := own.input_linear(x)]
        for index, layer in enumerate(own.layers, 1):
            x = layer(x, attention_dists=blocks)
            if index == own.num_layers // 2:
                x = x + own.out_mid(own.out(x).softmax(-1))
            states.append(x)
        further = sorted(set(getattr(own.config, "cat_hidden_layers", None) or ()))
        return self.projector(torch.cat([*(states[i] for i in further), x], -1) if further else x)


@dataclass
class GraniteSource(AudioLanguage):
    """A folder; see the module docstring."""

    def _loaded(self) -> tuple[nn.Module, nn.Linear]:
        """See `Multimodal`; with what the adapter adds."""
        model, head = super()._loaded()
        if adapter.files(self.checkpoint):
            adapter.merge(self.checkpoint, model, self.layout.language_keys)
        return model, head


def open_family(checkpoint: Checkpoint) -> AudioLanguage:
    """Open a GraniteSpeechForConditionalGeneration folder, or one of Granite-Speech Plus.

    Raises:
        RequestError: config.json speaks of an adapter that is not there; a projector whose windows give no whole number
            of tokens; weights, an adapter, a tokenizer or a feature extractor that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    read: _Config = typed(_Config, checkpoint.config, path)
    kind = checkpoint.config.get("model_type", "granite_speech")
    config: Any = built(lambda: AutoConfig.for_model(**{**checkpoint.config, "model_type": kind}), path)
    added = adapter.files(checkpoint)
    if read.has_lora_adapter and not added:
        raise RequestError(
            "config.json says has_lora_adapter, and the folder has no adapter_model.safetensors: without it the model "
            "does not understand sounds",
            where=str(checkpoint.folder),
            fix="Download the whole folder again. If the adapter is in its weights already, set has_lora_adapter of "
            "config.json to false.",
        )
    # transformers warns of it, and does not know that it is merged.
    config.has_lora_adapter = False
    _check_windows(config, path)
    model = shell(checkpoint, config, "eager").model
    parts = nn.ModuleDict({"encoder": model.encoder, "projector": model.projector})
    load(checkpoint, parts)
    record = granite_log_mel_of(checkpoint, config.encoder_config.input_dim, config.window_size, config.downsample_rate)

    def sized(frames: int) -> GraphSource:
        module = GraniteEncoder(model, frames)
        return encoder_of(module, "input_features", (1, record.mels, frames), (module.tokens,))

    source = spoken_to(
        checkpoint, config, sized(record.frames), _LAYOUT, record, "absent", GraniteSource, sized=sized, step=2
    )
    source.files = (*source.files, *added)
    return source


def _check_windows(config: Any, path: Path) -> None:
    if config.window_size % config.downsample_rate:
        raise RequestError(
            f"config.json has a window_size of {config.window_size} and a downsample_rate of "
            f"{config.downsample_rate}, which give no whole number of tokens",
            where=str(path),
            fix="Copy or download this file again.",
        )
