"""What is read of config.json of a vision tower and of a language model; families add what they need beside it."""

from __future__ import annotations

from pydantic import BaseModel

from ..sources.configuration import Layers, Pixels, Vocabulary, Width


class Tower(BaseModel):
    """Of the vision tower; what is not there has the default of transformers."""

    # Where these are there, they are numbers: what divides by them would not find null.
    image_size: Pixels = None  # type: ignore[assignment]
    patch_size: Pixels = None  # type: ignore[assignment]
    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Width | None = None


class Language(BaseModel):
    """Of the language model."""

    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    vocab_size: Vocabulary | None = None
    num_hidden_layers: Layers | None = None


class Hearing(BaseModel):
    """Of an encoder of sounds, by the names of language models."""

    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Width | None = None
    num_mel_bins: Width | None = None


class WhisperLike(BaseModel):
    """Of an encoder of sounds, by Whisper's names."""

    d_model: Width | None = None
    encoder_layers: Layers | None = None
    encoder_attention_heads: Width | None = None
    encoder_ffn_dim: Width | None = None
    num_mel_bins: Width | None = None


class TwoParts(BaseModel):
    """Of both."""

    vision_config: Tower | None = None
    text_config: Language | None = None
