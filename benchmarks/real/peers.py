"""Other programs that read the same checkpoint: encoder, text from its tokens, and a sound to text, greedily."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Listener(ABC):
    """A recogniser whose steps are timed on one clip."""

    @abstractmethod
    def encode(self) -> None:
        """Run the encoder on the clip, and keep what it gives."""

    @abstractmethod
    def decode(self, limit: int) -> int:
        """Write at most `limit` tokens of text from that, and tell how many there were."""

    @abstractmethod
    def text(self, sound: np.ndarray) -> str:
        """Of a sound, float32 [samples] at 16 kHz and at most 30 s."""


class Transformers(Listener):
    """transformers in eager PyTorch, with its default attention.

    Args:
        folder: the checkpoint.
        sound: the clip.
    """

    def __init__(self, folder: Path, sound: np.ndarray) -> None:
        from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

        self.model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self.mel = self._mel(sound)
        many = self.model.generation_config.is_multilingual
        self.asked = {"language": "en", "task": "transcribe"} if many else {}
        self.encoded: Any = None

    def _mel(self, sound: np.ndarray) -> torch.Tensor:
        return self.extractor(sound, sampling_rate=16_000, return_tensors="pt").input_features

    @torch.inference_mode()
    def encode(self) -> None:
        """Its encoder."""
        self.encoded = self.model.model.encoder(self.mel)

    @torch.inference_mode()
    def decode(self, limit: int) -> int:
        """Its `generate` from the encoder's output."""
        ids = self.model.generate(encoder_outputs=self.encoded, do_sample=False, max_new_tokens=limit, **self.asked)
        return int(ids.shape[1])

    @torch.inference_mode()
    def text(self, sound: np.ndarray) -> str:
        """Features, `generate`, and the tokenizer."""
        ids = self.model.generate(self._mel(sound), do_sample=False, max_new_tokens=200, **self.asked)
        return str(self.tokenizer.batch_decode(ids, skip_special_tokens=True)[0])


class FasterWhisper(Listener):
    """faster-whisper (CTranslate2), from the checkpoint by CTranslate2's own converter."""

    def __init__(self, folder: Path, sound: np.ndarray, threads: int, weights: str = "float32") -> None:
        from ctranslate2.converters import TransformersConverter
        from faster_whisper import WhisperModel
        from transformers import WhisperFeatureExtractor

        converted = folder.with_name(f"{folder.name}-ctranslate2")
        if not (converted / "model.bin").is_file():
            copied = ["tokenizer.json", "preprocessor_config.json"]
            TransformersConverter(str(folder), copy_files=copied).convert(str(converted), force=True)
        self.model = WhisperModel(str(converted), device="cpu", compute_type=weights, cpu_threads=threads)
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self.mel = extractor(sound, sampling_rate=16_000, return_tensors="np").input_features[0]
        settings = json.loads((folder / "generation_config.json").read_text())
        self.start = [settings["decoder_start_token_id"], settings["no_timestamps_token_id"]]
        if settings["is_multilingual"]:
            self.start[1:1] = [settings["lang_to_id"]["<|en|>"], settings["task_to_id"]["transcribe"]]
        self.encoded: Any = None

    def encode(self) -> None:
        """Its encoder."""
        self.encoded = self.model.encode(self.mel)

    def decode(self, limit: int) -> int:
        """CTranslate2's greedy search from the encoder's output."""
        # Its limit counts the tokens that a transcript begins with.
        found = self.model.model.generate(self.encoded, [self.start], beam_size=1, max_length=len(self.start) + limit)
        return len(found[0].sequences_ids[0])

    def text(self, sound: np.ndarray) -> str:
        """Its `transcribe`, without beams, times and second tries."""
        told: dict[str, Any] = {"beam_size": 1, "temperature": 0.0, "without_timestamps": True}
        segments, _ = self.model.transcribe(sound, language="en", condition_on_previous_text=False, **told)
        return "".join(segment.text for segment in segments)


class OpenAIWhisper(Listener):
    """openai-whisper in PyTorch, its modules loaded with the checkpoint's weights."""

    def __init__(self, folder: Path, sound: np.ndarray, _threads: int) -> None:
        import whisper
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
        from whisper.model import ModelDimensions, Whisper

        ours = WhisperForConditionalGeneration.from_pretrained(folder)
        of = ours.config
        self.model = Whisper(
            ModelDimensions(
                n_mels=of.num_mel_bins,
                n_audio_ctx=of.max_source_positions,
                n_audio_state=of.d_model,
                n_audio_head=of.encoder_attention_heads,
                n_audio_layer=of.encoder_layers,
                n_vocab=of.vocab_size,
                n_text_ctx=of.max_target_positions,
                n_text_state=of.d_model,
                n_text_head=of.decoder_attention_heads,
                n_text_layer=of.decoder_layers,
            )
        ).eval()
        state = {_openai(name): tensor for name, tensor in ours.model.state_dict().items()}
        missing, unknown = self.model.load_state_dict(state, strict=False)
        # The alignment heads and the causal mask are no weights.
        assert not unknown and not [name for name in missing if "weight" in name or "bias" in name], (missing, unknown)
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self.mel = extractor(sound, sampling_rate=16_000, return_tensors="pt").input_features
        self.whisper, self.encoded = whisper, torch.empty(0)

    @torch.inference_mode()
    def encode(self) -> None:
        """Its encoder."""
        self.encoded = self.model.encoder(self.mel)[0]

    def decode(self, limit: int) -> int:
        """Its greedy `decode` from the encoder's output."""
        options = self.whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False, sample_len=limit)
        return len(self.whisper.decode(self.model, self.encoded, options).tokens)

    def text(self, sound: np.ndarray) -> str:
        """Its `transcribe`, without times and second tries."""
        told = {"language": "en", "temperature": 0.0, "without_timestamps": True, "fp16": False}
        said = self.whisper.transcribe(self.model, sound, condition_on_previous_text=False, **told)
        return str(said["text"])


# Name -> the package that must be there, its module, and what makes it of a checkpoint, a clip and a number of threads.
PEERS: dict[str, tuple[str, str, Callable[[Path, np.ndarray, int], Listener]]] = {
    "faster-whisper": ("faster-whisper", "faster_whisper", FasterWhisper),
    "faster-whisper, int8 weights": ("faster-whisper", "faster_whisper", partial(FasterWhisper, weights="int8")),
    "openai-whisper": ("openai-whisper", "whisper", OpenAIWhisper),
}
_RENAMED = (
    ("layers.", "blocks."),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("encoder_attn", "cross_attn"),
    ("self_attn_layer_norm", "attn_ln"),
    ("self_attn", "attn"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("final_layer_norm", "mlp_ln"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
    ("embed_tokens", "token_embedding"),
    ("encoder.embed_positions.weight", "encoder.positional_embedding"),
    ("decoder.embed_positions.weight", "decoder.positional_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
)


def _openai(name: str) -> str:
    for ours, theirs in _RENAMED:
        name = name.replace(ours, theirs)
    return name
