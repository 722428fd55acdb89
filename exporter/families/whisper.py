"""Whisper: the encoder over thirty seconds of log-mel, and the decoder as prefill and decode.

    input_features [1, mels, 2 N] float32 -> tokens [1, N, D], N = 1500, after the final layer norm

There is no CLS token and no projector: the decoder's cross-attention reads these tokens as they are.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperDecoder as Decoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Encoder

from ...errors import RequestError
from ...runtimes.bundle.manifest import LogMelRecord
from ..decoders.cross import CrossDecoder
from ..sources.configuration import Layers, Positions, Vocabulary, Width, built, typed
from ..sources.sound import log_mel_of
from ..sources.source import GraphSource
from ..sources.weights import without_weights
from .recogniser import Recogniser
from .recogniser_reference import Reference

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

# Of the model's own window: measured on tiny.en and base, ten of thirty seconds change few words.
_SHORTEST = 1 / 3


class _Config(BaseModel):
    """What is read of config.json; what is not there has the default of transformers."""

    architectures: list[str] | None = None
    d_model: Width | None = None
    encoder_layers: Layers | None = None
    encoder_attention_heads: Width | None = None
    encoder_ffn_dim: Width | None = None
    decoder_layers: Layers | None = None
    decoder_attention_heads: Width | None = None
    decoder_ffn_dim: Width | None = None
    num_mel_bins: Width | None = None
    max_source_positions: Positions | None = None
    max_target_positions: Positions | None = None
    vocab_size: Vocabulary | None = None


class WhisperEncoder(nn.Module):
    """The encoder as a function of one tensor to one tensor."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)

    def forward(self, input_features: Tensor) -> Tensor:
        """[1, mels, 2 N] float32 -> [1, N, D]."""
        return self.encoder(input_features, return_dict=True).last_hidden_state

    def shortened(self, tokens: int) -> WhisperEncoder:
        """For the first `tokens` positions, over the same weights."""
        config = copy.deepcopy(self.encoder.config)
        config.max_source_positions = tokens
        short = copy.copy(self)
        short._modules = {"encoder": copy.copy(self.encoder)}
        short.encoder.config = config
        table = nn.Embedding.from_pretrained(self.encoder.embed_positions.weight[:tokens])
        short.encoder._modules = {**self.encoder._modules, "embed_positions": table}
        return short


@dataclass
class WhisperSource(Recogniser):
    """A Whisper folder; see the module docstring."""

    def windowed(self, seconds: float) -> WhisperSource:
        """See `Source`: the encoder's positions are cut."""
        record = self.sound
        assert isinstance(record, LogMelRecord)
        own, frames = record.samples / record.sample_rate, seconds * record.sample_rate / record.hop
        step = 2 * record.hop / record.sample_rate
        least = math.ceil(round(own * _SHORTEST / step, 6)) * step
        if not least <= seconds <= own:
            wrong = "longer than its own" if seconds > own else "too short"
            raise RequestError(
                f"a window of {seconds:g} s is {wrong}: {self.name} was trained on {own:g} s, and repeats itself "
                "without end where less than a third of them is left",
                fix=f"Give --window from {least:g} to {own:g}.",
            )
        if frames % 2:
            raise RequestError(
                f"a window of {seconds:g} s is {frames:g} frames, and every two of them are one token",
                fix=f"Give a multiple of {step:g} s.",
            )
        encoder: Any = self.encoder.module
        tokens = int(frames) // 2
        return replace(
            self,
            encoder=replace(
                self.encoder,
                module=encoder.shortened(tokens).eval(),
                inputs={"input_features": torch.zeros(1, record.mels, int(frames))},
                grid=(tokens,),
            ),
            preprocess=record.model_copy(update={"frames": int(frames)}),
            window=float(seconds),
            whole=self,
        )

    def read_decoder(self) -> CrossDecoder:
        """See `Recogniser`."""
        return self.loaded(Decoder, self.config.decoder_attention_heads)

    def make_reference(self) -> Reference:
        """See `Recogniser`."""
        encoder: Any = self.encoder.module
        return Reference(
            WhisperForConditionalGeneration, self.config, encoder.encoder, self.decoder.decoder, self.decoder.head
        )


def open_family(checkpoint: Checkpoint) -> WhisperSource:
    """Open a WhisperForConditionalGeneration folder, or the encoder of a WhisperModel folder, which has no head.

    Raises:
        RequestError: weights that do not belong to config.json; a feature extractor that does not, or is not
            supported. Where the language graphs are wanted: no tokenizer, or one that does not belong to config.json.
        MissingError: tokenizers is not installed.
    """
    path = checkpoint.folder / "config.json"
    named = typed(_Config, checkpoint.config, path).architectures or []
    config = built(lambda: WhisperConfig.from_dict(checkpoint.config), path)
    with without_weights():
        module = built(lambda: WhisperEncoder(config), path)
    checkpoint.weights.load(module.encoder, "encoder")
    tokens = config.max_source_positions
    source = WhisperSource(
        kind="checkpoint",
        name=checkpoint.name,
        modality="audio",
        encoder=GraphSource(
            role="encoder",
            module=module.eval(),
            inputs={"input_features": torch.zeros(1, config.num_mel_bins, 2 * tokens)},
            outputs=("tokens",),
            grid=(tokens,),
        ),
        files=checkpoint.weights.files,
        # The decoder follows the encoder directly, so a paper's projector input and output are both this seam.
        auto_seam=dict.fromkeys(("encoder_output", "projector_input", "projector_output"), "encoder_output"),
        preprocess=log_mel_of(checkpoint, config.num_mel_bins, 2 * tokens),
        config=config,
        checkpoint=checkpoint,
        positions=config.max_target_positions,
        decoder_layers=config.decoder_layers,
    )
    if checkpoint.parts == "all":
        source.add_language("max_target_positions", headless="WhisperModel" if "WhisperModel" in named else "")
    return source
