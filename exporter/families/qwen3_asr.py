"""Qwen3-ASR: chunks of a second through three convolutions, an encoder that sees windows of chunks, and a projector.

    input_features [1, mels, chunks * 2 n_window] float32 -> tokens [1, N, D], 13 for each chunk, which is a second

The model reads sounds of any length, and a graph takes one, of whole chunks. Its prompt is what the answer begins with:
nothing, or the language, as in "language English<asr_text>". transformers fills a last chunk that is not whole with
zeros, which its mask leaves out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3ASRConfig

from ...errors import RequestError
from ..sources.configuration import Positions, Width, built, typed
from ..sources.sound import chunked_log_mel_of
from ..zoo.decoding import MASKED
from .audio_language import AudioLanguage, Projected, load, spoken_to
from .joined import encoder_of
from .layout import Layout, shell
from .two_parts import Language, WhisperLike

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint
    from ..sources.source import GraphSource

_MARK = "<|audio_pad|>"
# Its chat template leaves out what a user writes.
_LAYOUT = Layout(
    media="audio",
    mark=_MARK,
    becomes=_MARK,
    asks=(
        f"<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|audio_start|>{_MARK}<|audio_end|><|im_end|>\n"
        "<|im_start|>assistant\n",
        "",
    ),
    question="language English<asr_text>",
    windows="its layers attend within windows of tokens",
)
# Tokens of a chunk.
_EACH = 13
_Half = Annotated[int, Field(ge=1, le=1 << 12)]


class _Audio(WhisperLike):
    """What is read of the encoder."""

    output_dim: Width | None = None
    downsample_hidden_size: Width | None = None
    max_position_embeddings: Positions | None = None
    n_window: _Half | None = None
    n_window_infer: Annotated[int, Field(ge=1, le=1 << 16)] | None = None


class _Config(BaseModel):
    """What is read of config.json."""

    audio_config: _Audio | None = None
    text_config: Language | None = None
    audio_token_id: Annotated[int, Field(ge=0)] | None = None


class Attention(nn.Module):
    """Of a layer: every token sees those of its window.

    transformers' own cuts a row of windows by their lengths, one after the other: here they are a batch.
    """

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = own.q_proj, own.k_proj, own.v_proj, own.out_proj
        self.heads, self.scale = own.num_heads, own.scaling

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor, **_: Any) -> Tensor:
        """[N, D], and bool [windows, 1, 1, size], which places are none -> [N, D]."""
        windows, size, tokens = len(cu_seqlens), cu_seqlens.shape[-1], len(hidden_states)
        x = F.pad(hidden_states, (0, 0, 0, windows * size - tokens))
        query, key, value = (
            project(x).reshape(windows, size, self.heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = query @ key.transpose(2, 3) * self.scale
        if windows * size > tokens:
            scores = scores.masked_fill(cu_seqlens, MASKED)
        out = scores.softmax(-1) @ value
        return self.out_proj(out.transpose(1, 2).flatten(2).flatten(0, 1)[:tokens])


class Qwen3ASREncoder(nn.Module):
    """The encoder for sounds of whole chunks, and the projector; the modules are transformers' own.

    Args:
        model: of transformers, with the weights of both.
        chunks: of a sound.
    """

    behind: Tensor

    def __init__(self, model: Any, chunks: int) -> None:
        super().__init__()
        self.audio_tower, self.multi_modal_projector = model.audio_tower, model.multi_modal_projector
        for layer in self.audio_tower.layers:
            # An encoder for another length may have the same layers.
            if not isinstance(layer.self_attn, Attention):
                layer.self_attn = Attention(layer.self_attn)
        audio = self.audio_tower.config
        self.chunks, self.tokens = chunks, chunks * _EACH
        size = audio.n_window_infer // (2 * audio.n_window) * _EACH
        windows = -(-self.tokens // size)
        places = torch.arange(windows * size).reshape(windows, 1, 1, size)
        self.register_buffer("behind", places >= self.tokens, persistent=False)

    def forward(self, input_features: Tensor) -> Tensor:
        """[1, mels, frames] float32 -> [1, N, D]."""
        tower = self.audio_tower
        x = input_features.unflatten(2, (self.chunks, -1)).transpose(1, 2).flatten(0, 1).unsqueeze(1)
        for convolution in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
            x = F.gelu(convolution(x))
        x = tower.conv_out(x.permute(0, 3, 1, 2).flatten(2))
        x = (x + tower.positional_embedding.positional_embedding[:_EACH]).flatten(0, 1)
        for layer in tower.layers:
            (x,) = layer(x, self.behind)
        return self.multi_modal_projector(tower.ln_post(x).unsqueeze(0))


def open_family(checkpoint: Checkpoint) -> AudioLanguage:
    """Open a Qwen3ASRForConditionalGeneration folder in the format of transformers.

    Raises:
        RequestError: the format of Qwen's own code; chunks or windows that transformers does not count; weights, a
            tokenizer or a feature extractor that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    if "thinker_config" in checkpoint.config:
        raise RequestError(
            "this folder has the format of Qwen's own code (thinker_config), which transformers cannot read",
            where=str(path),
            fix="Give the folder of the same model whose name ends in -hf: Qwen/Qwen3-ASR-1.7B-hf, for example.",
        )
    typed(_Config, checkpoint.config, path)
    config = built(lambda: Qwen3ASRConfig.from_dict(checkpoint.config), path)
    audio: Any = config.audio_config
    chunk = 2 * audio.n_window
    if _tokens(chunk) != _EACH or audio.n_window_infer < chunk or audio.max_position_embeddings < _EACH:
        raise RequestError(
            f"config.json has n_window {audio.n_window}, n_window_infer {audio.n_window_infer} and "
            f"{audio.max_position_embeddings} positions, and transformers counts {_EACH} tokens in each chunk of 2 "
            "n_window frames, and whole chunks in a window",
            where=str(path),
            fix="Copy or download this file again.",
        )
    model = shell(checkpoint, config, "sdpa").model
    load(checkpoint, Projected(model))
    record = chunked_log_mel_of(checkpoint, audio.num_mel_bins, audio.n_window)

    def sized(frames: int) -> GraphSource:
        module = Qwen3ASREncoder(model, frames // chunk)
        return encoder_of(module, "input_features", (1, record.mels, frames), (module.tokens,))

    return spoken_to(checkpoint, config, sized(record.frames), _LAYOUT, record, "absent", sized=sized, step=chunk)


def _tokens(frames: int) -> int:
    """Of so many frames of one chunk, behind three convolutions that take every other place."""
    for _ in range(3):
        frames = (frames + 1) // 2
    return frames
