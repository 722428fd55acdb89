"""Random checkpoints of models that are asked about sounds, tiny in size and real in structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_checkpoints

# As Qwen2-Audio is asked; released folders know a sound by the key of its address.
SOUND_CHAT = (
    "{% set count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if 'audio' in content or 'audio_url' in content or message['type'] == 'audio' %}"
    "{% set count.value = count.value + 1 %}Audio {{ count.value }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _saved(folder: Path, config: Any, seconds: int) -> Path:
    """Write a model of `config` that answers, and the feature extractor of a window of so many seconds."""
    from transformers import AutoModelForMultimodalLM

    model = AutoModelForMultimodalLM.from_config(config)
    tiny_checkpoints.enliven(model)
    tiny_checkpoints.louder(model.model.language_model)
    model.save_pretrained(folder)
    said = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000}
    said |= {"chunk_length": seconds, "hop_length": 160, "n_fft": 400, "padding_value": 0.0}
    (folder / "preprocessor_config.json").write_text(json.dumps({**said, "return_attention_mask": True}))
    return folder


def qwen2_audio(folder: Path, *, tokens: int = 50, vocabulary: int = 96) -> Path:
    """A Qwen2-Audio whose window is 0.04 s for each of its tokens, over a Qwen2."""
    from transformers import Qwen2AudioConfig

    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "num_mel_bins": 80,
            "max_source_positions": 2 * tokens,
        },
        text_config=tiny_checkpoints.answering(vocabulary, "qwen2").to_dict(),
        audio_token_index=vocabulary - 1,
        tie_word_embeddings=False,
    )
    around = ("<|audio_bos|>", "<|audio_eos|>", "<|im_start|>", "<|im_end|>")
    tiny_checkpoints.chat_tokenizer(_saved(folder, config, tokens // 25), vocabulary, "<|AUDIO|>", SOUND_CHAT, around)
    return folder


def voxtral(folder: Path, *, tokens: int = 25, vocabulary: int = 96) -> Path:
    """A Voxtral whose window is 0.08 s for each of its tokens, four places of the encoder, over a Llama."""
    from transformers import VoxtralConfig

    config = VoxtralConfig(
        audio_config={
            "model_type": "voxtral_encoder",
            "hidden_size": 16,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_mel_bins": 80,
            "max_source_positions": 4 * tokens,
        },
        text_config=tiny_checkpoints.answering(vocabulary).to_dict(),
        audio_token_id=vocabulary - 1,
        tie_word_embeddings=False,
    )
    around = ("[INST]", "[BEGIN_AUDIO]", "[/INST]")
    tiny_checkpoints.chat_tokenizer(_saved(folder, config, 2 * tokens // 25), vocabulary, "[AUDIO]", None, around)
    return folder
