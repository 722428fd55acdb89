"""Moonshine: an encoder of waveforms with rotary positions, and the decoder as prefill and decode.

    input_values [1, samples] float32 -> tokens [1, N, D], N = 1248 for 30 s, after the final layer norm

A sound is padded with silence, which the model sees: measured on trained weights, up to 25 s of silence change the
punctuation, and a word that the end of a clip cuts in two.

Inside the encoder a merged slot turns by the position that it inherits. Measured there too, that is no better than a
uniform choice where far tokens are merged: the place for compressors that merge is behind the encoder.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import MoonshineConfig, MoonshineForConditionalGeneration
from transformers.models.moonshine.modeling_moonshine import MoonshineDecoder as Decoder
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder as Encoder
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoderModelOutput

from ...errors import RequestError
from ..decoders.attention import UNMASKED
from ..decoders.cross import CrossDecoder
from ..sources.configuration import Layers, Positions, Vocabulary, Width, built, typed
from ..sources.sound import waveform_of
from ..sources.source import GraphSource
from ..sources.weights import without_weights
from .recogniser import Recogniser
from .recogniser_reference import Reference
from .rotary_rows import rows_at

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

# What it was trained on, in seconds: speech of 4 to 30 s, and at most 194 positions, which are 6.5 a second.
_WINDOW = 30
_SHORTEST = 4


class _Config(BaseModel):
    """What is read of config.json; what is not there has the default of transformers."""

    architectures: list[str] | None = None
    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    encoder_num_hidden_layers: Layers | None = None
    encoder_num_attention_heads: Width | None = None
    encoder_num_key_value_heads: Width | None = None
    decoder_num_hidden_layers: Layers | None = None
    decoder_num_attention_heads: Width | None = None
    decoder_num_key_value_heads: Width | None = None
    max_position_embeddings: Positions | None = None
    vocab_size: Vocabulary | None = None


class MoonshineEncoder(nn.Module):
    """The encoder as a function of one tensor to one tensor."""

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        own = copy.deepcopy(config)
        own._attn_implementation = UNMASKED
        self.encoder = Encoder(own)

    def forward(self, input_values: Tensor) -> Tensor:
        """[1, samples] float32 -> [1, N, D]."""
        return self.encoder(input_values).last_hidden_state

    @contextmanager
    def at(self, kept: Tensor) -> Iterator[None]:
        """Layers take as many tokens as `kept` [1, K] int64 for those at these positions."""
        with rows_at(self.encoder.layers, kept):
            yield

    def tokens(self, samples: int) -> int:
        """N of a sound; less than 1 where it is too short for one."""
        for conv in (self.encoder.conv1, self.encoder.conv2, self.encoder.conv3):
            samples = (samples - conv.kernel_size[0]) // conv.stride[0] + 1
        return samples


@dataclass
class MoonshineSource(Recogniser):
    """A Moonshine folder; see the module docstring."""

    def windowed(self, seconds: float) -> MoonshineSource:
        """See `Source`; the positions are computed, so any length will do."""
        whole = self.sound.samples / self.sound.sample_rate
        if not _SHORTEST <= seconds <= whole:
            raise RequestError(
                f"a window of {seconds:g} s is too {'long' if seconds > whole else 'short'}: {self.name} was trained "
                f"on speech of {_SHORTEST} to {whole:g} s",
                fix=f"Give --window from {_SHORTEST} to {whole:g}.",
            )
        samples = round(seconds * self.sound.sample_rate)
        encoder: Any = self.encoder.module
        return replace(
            self,
            encoder=_graph(encoder, samples),
            preprocess=self.sound.model_copy(update={"samples": samples}),
            window=float(seconds),
            whole=self,
        )

    def read_decoder(self) -> CrossDecoder:
        """See `Recogniser`."""
        # Its layers hand their cross-attention a mask, and no keyword of ours.
        return self.loaded(Decoder, self.config.decoder_num_attention_heads, bias="encoder_attention_mask")

    def make_reference(self) -> Reference:
        """See `Recogniser`."""
        encoder: Any = self.encoder.module
        return Reference(
            MoonshineForConditionalGeneration,
            self.config,
            encoder.encoder,
            self.decoder.decoder,
            self.decoder.head,
            MoonshineEncoderModelOutput,
        )


def open_family(checkpoint: Checkpoint) -> MoonshineSource:
    """Open a MoonshineForConditionalGeneration folder, or the encoder of a MoonshineModel folder, which has no head.

    Raises:
        RequestError: weights that do not belong to config.json; a feature extractor that is not supported. Where the
            language graphs are wanted: no tokenizer, or one that does not belong to config.json.
        MissingError: tokenizers is not installed.
    """
    path = checkpoint.folder / "config.json"
    named = typed(_Config, checkpoint.config, path).architectures or []
    config = built(lambda: MoonshineConfig.from_dict(checkpoint.config), path)
    _check_heads(config, checkpoint)
    # The padded channels are zero, and every cache would hold them.
    config.pad_head_dim_to_multiple_of = None
    with without_weights():
        module = built(lambda: MoonshineEncoder(config), path)
    checkpoint.weights.load(module.encoder, "encoder")
    record = waveform_of(checkpoint, _WINDOW)
    source = MoonshineSource(
        kind="checkpoint",
        name=checkpoint.name,
        modality="audio",
        encoder=_graph(module.eval(), record.samples),
        files=checkpoint.weights.files,
        # The decoder follows the encoder directly, so a paper's projector input and output are both this seam.
        auto_seam=dict.fromkeys(("encoder_output", "projector_input", "projector_output"), "encoder_output"),
        preprocess=record,
        config=config,
        checkpoint=checkpoint,
        positions=config.max_position_embeddings,
        decoder_layers=config.decoder_num_hidden_layers,
    )
    if checkpoint.parts == "all":
        source.add_language("max_position_embeddings", headless="MoonshineModel" if "MoonshineModel" in named else "")
    return source


def _graph(module: MoonshineEncoder, samples: int) -> GraphSource:
    return GraphSource(
        role="encoder",
        module=module,
        inputs={"input_values": torch.zeros(1, samples)},
        outputs=("tokens",),
        grid=(module.tokens(samples),),
        merged_rows=True,
    )


def _check_heads(config: MoonshineConfig, checkpoint: Checkpoint) -> None:
    for part in ("encoder", "decoder"):
        heads, groups = (getattr(config, f"{part}_num_{kind}_heads") for kind in ("attention", "key_value"))
        if heads != groups:
            raise RequestError(
                f"config.json has {heads} heads and {groups} of keys and values in the {part}, and the Moonshine of "
                "transformers computes only as many of both",
                where=str(checkpoint.folder / "config.json"),
                fix="Give a folder of a released Moonshine, tiny or base: there they are equal.",
            )
