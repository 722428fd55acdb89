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


# As GLM-ASR is asked.
GLM_CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\n"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

# As Granite-Speech is asked, of which a user writes `<|audio|>` into the text.
GRANITE_CHAT = (
    "{% for message in messages %}{{ '<|start_of_role|> ' + message['role'] + ' <|end_of_role|>' + message['content'] "
    "+ '<|end_of_text|>\n' }}{% endfor %}{% if add_generation_prompt %}<|start_of_role|> assistant <|end_of_role|>"
    "{% endif %}"
)
GRANITE = {"embedding_multiplier": 2.0, "residual_multiplier": 0.8, "attention_multiplier": 0.3, "logits_scaling": 2.0}


def _saved(folder: Path, config: Any, seconds: int, seed: int = 3, **extractor: Any) -> Path:
    """Write a model of `config` that answers, and the feature extractor of a window of so many seconds."""
    import torch
    from transformers import AutoModelForMultimodalLM

    model = AutoModelForMultimodalLM.from_config(config)
    tiny_checkpoints.enliven(model)
    tiny_checkpoints.louder(model.model.language_model, seed)
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
    model.save_pretrained(folder)
    said = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000}
    said |= {"chunk_length": seconds, "hop_length": 160, "n_fft": 400, "padding_value": 0.0}
    said |= {"return_attention_mask": True, **extractor}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
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


def glmasr(folder: Path, *, tokens: int = 25, vocabulary: int = 96) -> Path:
    """A GLM-ASR whose window is 0.08 s for each of its tokens, four places of the encoder, over a Llama."""
    from transformers import GlmAsrConfig

    config = GlmAsrConfig(
        audio_config={
            "model_type": "glmasr_encoder",
            "hidden_size": 16,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_mel_bins": 80,
            "max_position_embeddings": 4 * tokens,
        },
        text_config=tiny_checkpoints.answering(vocabulary).to_dict(),
        audio_token_id=vocabulary - 1,
        tie_word_embeddings=False,
    )
    around = ("<|user|>", "<|assistant|>", "<|begin_of_audio|>", "<|end_of_audio|>")
    tiny_checkpoints.chat_tokenizer(_saved(folder, config, 2 * tokens // 25), vocabulary, "<|pad|>", GLM_CHAT, around)
    return folder


def qwen3_asr(folder: Path, *, seconds: int = 3, vocabulary: int = 96) -> Path:
    """A Qwen3-ASR that sees two chunks of a second at a time, the last of an odd number alone, over a Qwen3."""
    from transformers import Qwen3ASRConfig

    config = Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder",
            "d_model": 16,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "num_mel_bins": 80,
            "n_window_infer": 200,
            "output_dim": 32,
            "downsample_hidden_size": 8,
        },
        text_config=tiny_checkpoints.answering(vocabulary, "qwen3").to_dict(),
        audio_token_id=vocabulary - 1,
        pad_token_id=3,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    extractor = {"feature_extractor_type": "Qwen3ASRFeatureExtractor", "n_window": 50, "min_length": 8000}
    around = ("<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>")
    folder = _saved(folder, config, seconds, 9, **extractor)
    tiny_checkpoints.chat_tokenizer(folder, vocabulary, "<|audio_pad|>", None, around, ("<asr_text>",))
    return folder


def granite_speech(folder: Path, *, vocabulary: int = 96, adapter: bool = True, cat: tuple[int, ...] = ()) -> Path:
    """A Granite-Speech whose blocks of 64 places do not fill half a minute, with its adapter, over a Granite.

    With `cat` it is a Plus, whose projector reads these layers too.
    """
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        "granite_speech_plus" if cat else "granite_speech",
        encoder_config={
            "model_type": "granite_speech_plus_encoder" if cat else "granite_speech_encoder",
            "input_dim": 160,
            "num_layers": 2,
            "hidden_dim": 16,
            "num_heads": 2,
            "output_dim": 12,
            "context_size": 64,
            "max_pos_emb": 80,
            "conv_kernel_size": 5,
            **({"cat_hidden_layers": [*cat]} if cat else {}),
        },
        projector_config={
            "model_type": "blip_2_qformer",
            "hidden_size": 16,
            "encoder_hidden_size": 16 * (1 + len(cat)),
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "cross_attention_frequency": 1,
        },
        text_config=tiny_checkpoints.answering(vocabulary, "granite", **GRANITE).to_dict(),
        audio_token_index=vocabulary - 1,
        has_lora_adapter=adapter,
        tie_word_embeddings=False,
    )
    # Of seeds, one whose answers hold no <|audio|>, for which transformers looks up another word.
    seed = 7 if cat else 3
    folder = _saved(folder, config, 30, seed, feature_extractor_type="GraniteSpeechFeatureExtractor", n_fft=512)
    if adapter:
        _adapter(folder)
    around = ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")
    tiny_checkpoints.chat_tokenizer(folder, vocabulary, "<|audio|>", GRANITE_CHAT, around)
    return folder


def granite_speech_plus(folder: Path) -> Path:
    """A Granite-Speech Plus whose projector reads the encoder's input and its first layer too, with no adapter."""
    return granite_speech(folder, adapter=False, cat=(0, 1))


def _adapter(folder: Path, rank: int = 4) -> None:
    """Write a LoRA adapter of the queries and values of two layers, as peft does."""
    import torch
    from safetensors.torch import save_file

    generator, tensors = torch.Generator().manual_seed(1), {}
    for layer in range(2):
        for name, width in (("q_proj", 32), ("v_proj", 16)):
            place = f"base_model.model.model.language_model.layers.{layer}.self_attn.{name}"
            tensors[f"{place}.lora_A.weight"] = torch.randn(rank, 32, generator=generator) / 6
            tensors[f"{place}.lora_B.weight"] = torch.randn(width, rank, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", "use_rslora": False}
    said |= {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {}, "modules_to_save": None}
    (folder / "adapter_config.json").write_text(json.dumps(said))


def adapted(language: Any, folder: Path) -> None:
    """Let a language model of transformers add the folder's adapter beside its matrices, as peft does."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    said = json.loads((folder / "adapter_config.json").read_text())
    begins = "base_model.model.model.language_model."
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        down, up = tensors[key], tensors[key.replace("lora_A", "lora_B")]

        def added(_: Any, inputs: Any, output: Any, down: Any = down, up: Any = up) -> Any:
            return output + inputs[0] @ down.T @ up.T * (said["lora_alpha"] / said["r"])

        name = key.removeprefix(begins).removesuffix(".lora_A.weight")
        language.get_submodule(name).register_forward_hook(added)


def granite_features(wave: Any) -> Any:
    """What the feature extractor of Granite-Speech makes of a sound, without torchaudio: [1, places, 160] float32."""
    import torch
    from transformers.audio_utils import mel_filter_bank

    filters = torch.from_numpy(mel_filter_bank(257, 80, 0.0, 8000.0, 16000)).float()
    window = torch.hann_window(400)
    spectrum = torch.stft(torch.from_numpy(wave), 512, 160, 400, window, return_complex=True).abs() ** 2
    logs = (spectrum.T @ filters).clip(min=1e-10).log10()
    logs = torch.maximum(logs, logs.max() - 8) / 4 + 1
    return logs[: len(logs) // 2 * 2].reshape(1, -1, 160)
