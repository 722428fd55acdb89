"""Whisper: the encoder over thirty seconds of log-mel.

    input_features [1, mels, 2 N] float32 -> tokens [1, N, D], N = 1500, after the final layer norm

There is no CLS token and no projector: the decoder's cross-attention reads these tokens as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Encoder

from ...runtimes.bundle.manifest import LogMelRecord
from ..sources.configuration import Layers, Positions, Vocabulary, Width, built, typed
from ..sources.source import GraphSource, Source
from ..sources.synthetic import sound
from ..sources.weights import without_weights

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_RATE, _WINDOW, _HOP = 16000, 400, 160


class _Config(BaseModel):
    """What is read of config.json; what is not there has the default of transformers."""

    d_model: Width | None = None
    encoder_layers: Layers | None = None
    encoder_attention_heads: Width | None = None
    encoder_ffn_dim: Width | None = None
    decoder_layers: Layers | None = None
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


@dataclass
class WhisperSource(Source):
    """A Whisper folder; see the module docstring."""

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` log-mel spectrograms of voiced glides between pauses, 16 kHz."""
        _, mels, frames = self.encoder.inputs["input_features"].shape
        extract = WhisperFeatureExtractor(feature_size=mels, chunk_length=math.ceil(frames * _HOP / _RATE))
        waves = [sound(i, frames * _HOP) for i in range(n)]
        features = extract(waves, sampling_rate=_RATE, return_tensors="np").input_features[..., :frames]
        return [{"input_features": np.ascontiguousarray(each[None], np.float32)} for each in features]


def open_family(checkpoint: Checkpoint) -> WhisperSource:
    """Open the encoder of a WhisperModel or WhisperForConditionalGeneration folder.

    Raises:
        RequestError: weights that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config = built(lambda: WhisperConfig.from_dict(checkpoint.config), path)
    with without_weights():
        module = built(lambda: WhisperEncoder(config), path)
    checkpoint.weights.load(module.encoder, "encoder")
    tokens = config.max_source_positions
    return WhisperSource(
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
        preprocess=LogMelRecord(
            kind="log_mel", sample_rate=_RATE, n_fft=_WINDOW, hop=_HOP, mels=config.num_mel_bins, frames=2 * tokens
        ),
    )
