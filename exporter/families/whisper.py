"""Whisper: the encoder over thirty seconds of log-mel, and the decoder as prefill and decode.

    input_features [1, mels, 2 N] float32 -> tokens [1, N, D], N = 1500, after the final layer norm

There is no CLS token and no projector: the decoder's cross-attention reads these tokens as they are.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperDecoder as Decoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Encoder

from ...errors import RequestError
from ...runtimes.bundle.manifest import GenerationRecord, LogMelRecord, ProcessorRecord
from ...runtimes.media.log_mel import input_features
from ..decoders.attention import NAME
from ..decoders.cross import CrossDecoder
from ..sources.configuration import Layers, Positions, Vocabulary, Width, built, typed
from ..sources.sound import log_mel_of
from ..sources.source import Answered, GraphSource, Source
from ..sources.tokenizer import FILE, tokenizer_of
from ..sources.weights import without_weights
from .spoken import spoken
from .whisper_generation import Settings, settings
from .whisper_reference import Reference

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

# Room for the ids that a transcript begins with, and for a few words.
_PROMPT = 8
# Of the model's own window: measured on tiny.en and base, ten of thirty seconds change few words.
_SHORTEST = 1 / 3
_TOKENIZER = f"processor/{FILE}"


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
class WhisperSource(Source):
    """A Whisper folder; see the module docstring.

    Attributes:
        config: of the folder.
        checkpoint: the folder, for the decoder's weights, which are read on first use.
        settings: how it generates; None where only the encoder is exported.
        whole: the model that this one is a window of, whose decoder both have.
    """

    config: Any = field(kw_only=True)
    checkpoint: Checkpoint = field(kw_only=True)
    settings: Settings | None = None
    whole: WhisperSource | None = None

    def windowed(self, seconds: float) -> WhisperSource:
        """See `Source`: the encoder's positions are cut."""
        record = self.preprocess
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

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """The log-mel spectrograms of `n` windows of speech; see `spoken`."""
        record = self.preprocess
        assert isinstance(record, LogMelRecord)
        return [{"input_features": input_features(wave, record)} for wave in spoken(n, record.samples)]

    def language(self, keep: int) -> list[GraphSource]:
        """prefill and decode for K = `keep`; the examples are an empty transcript and its first word."""
        if self.settings is None:
            return []
        prompt = self.settings.prompt()
        barred = {*self.settings.suppress, *self.settings.begin_suppress, *self.settings.eos}
        word = next(i for i in range(self.config.vocab_size) if i not in barred)
        return self._decoder.graphs(keep, prompt, word)

    def generation(self, keep: int) -> GenerationRecord | None:
        """See `runtimes.bundle.manifest` for the contract; one capacity for each layer."""
        if self.settings is None:
            return None
        config, said = self.config, self.settings
        return GenerationRecord(
            attention="cross",
            image_span=(0, keep),
            tokens_in=self.encoder.grid[0] if self.encoder.grid else config.max_source_positions,
            prompt_length=_PROMPT,
            kv_capacity=[config.max_target_positions] * config.decoder_layers,
            max_new_tokens=config.max_target_positions - _PROMPT,
            vocabulary=config.vocab_size,
            bos=said.bos,
            pad=said.pad,
            eos=said.eos,
            suppress=said.suppress,
            begin_suppress=said.begin_suppress,
            speech=said.speech,
        )

    def proof_prompt(self) -> list[int]:
        """See `Settings.prompt`."""
        return self.settings.prompt() if self.settings else []

    def own_answer(self, tokens: np.ndarray, token_bias: np.ndarray, limit: int) -> Answered | None:
        """See `Source`; by transformers."""
        if self.settings is None:
            return None
        return self._reference.answer(tokens, token_bias, self.settings.prompt(), self.settings, limit)

    @cached_property
    def _decoder(self) -> CrossDecoder:
        """The folder's decoder.

        Raises:
            RequestError: weights that do not belong to config.json.
        """
        if self.whole is not None:
            return self.whole._decoder
        config = copy.deepcopy(self.config)
        config._attn_implementation = NAME
        with without_weights():
            decoder = built(lambda: Decoder(config), self.checkpoint.folder / "config.json")
            head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.checkpoint.weights.load(decoder, "decoder")
        if config.tie_word_embeddings:
            head.weight = decoder.embed_tokens.weight
        else:
            self.checkpoint.weights.load(head, "proj_out")
        return CrossDecoder(
            decoder=decoder.eval(),
            head=head,
            layers=config.decoder_layers,
            heads=config.decoder_attention_heads,
            head_dim=config.d_model // config.decoder_attention_heads,
            dim=config.d_model,
            prompt_length=_PROMPT,
            capacity=config.max_target_positions,
            pad=self.settings.pad if self.settings else 0,
        )

    @cached_property
    def _reference(self) -> Reference:
        if self.whole is not None:
            return self.whole._reference
        encoder: Any = self.encoder.module
        return Reference(self.config, encoder.encoder, self._decoder.decoder, self._decoder.head)


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
    )
    if checkpoint.parts == "all" and "WhisperModel" in named:
        source.notes = ("this folder is a WhisperModel, which has no output layer: only its encoder is exported",)
    elif checkpoint.parts == "all":
        _add_language(source)
    return source


def _add_language(source: WhisperSource) -> None:
    """Read what the language graphs need but their weights."""
    config, checkpoint, record = source.config, source.checkpoint, source.preprocess
    assert isinstance(record, LogMelRecord)
    if config.max_target_positions <= _PROMPT:
        raise RequestError(
            f"max_target_positions {config.max_target_positions} leaves no room for a transcript: {_PROMPT} positions "
            "hold what it begins with",
            where=str(checkpoint.folder / "config.json"),
            fix="Export the encoder alone with --parts encoder.",
        )
    content, ids = tokenizer_of(checkpoint, config.vocab_size)
    seconds = record.samples / record.sample_rate / config.max_source_positions
    source.settings = settings(checkpoint, config.vocab_size, ids, seconds)
    source.processor = ProcessorRecord(kind="tokenizers", tokenizer=_TOKENIZER)
    source.processor_files = {_TOKENIZER: content}
