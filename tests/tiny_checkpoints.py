"""Random checkpoints, tiny and at real size, in folders as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def enliven(module: Any, seed: int = 0) -> None:
    """Random weights of a size at which every layer matters: transformers starts some at zero and most near it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))


def llava(
    folder: Path,
    *,
    hidden: int = 32,
    layers: int = 3,
    heads: int = 2,
    size: int = 84,
    patch: int = 14,
    text: int = 48,
    tower: str = "clip",
    dtype: str = "float32",
    **config: Any,
) -> Path:
    """A LlavaForConditionalGeneration with a language model of one narrow layer, and a CLIP image processor."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        SiglipVisionConfig,
    )

    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": size,
        "patch_size": patch,
    }
    vision = CLIPVisionConfig(**sizes) if tower == "clip" else SiglipVisionConfig(**sizes, vision_use_head=False)
    language = LlamaConfig(
        hidden_size=text,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=16,
        eos_token_id=2,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=language,
            image_token_index=15,
            image_seq_length=(size // patch) ** 2,
            **config,
        )
    )
    enliven(model)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


# Ids as in Whisper: words, what ends and begins a transcript, languages, tasks, other marks, and times.
_WORDS = 64
_LANGUAGES = ("en", "de", "fr")
_MARKS = ("<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in _LANGUAGES), "<|translate|>")
_MARKS = (*_MARKS, "<|transcribe|>", "<|startofprev|>", "<|notimestamps|>")


def whisper_ids(tokens: int = 100) -> dict[str, int]:
    """Token -> id of the tiny Whisper with so many encoder positions, each 0.02 s."""
    times = [f"<|{number / 50:.2f}|>" for number in range(tokens + 1)]
    return {token: i for i, token in enumerate([*(f"w{i}" for i in range(_WORDS)), *_MARKS, *times])}


def whisper_tokenizer(folder: Path, ids: dict[str, int]) -> None:
    """Write a tokenizer.json of words that spaces part; all other tokens are special."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ids if token.startswith("<|")])
    tokenizer.save(str(folder / "tokenizer.json"))


def _enliven_decoder(decoder: Any, seed: int = 4) -> None:
    """Louder weights, so that greedy answers are no word said again and again: some end, some change to the last."""
    import torch

    enliven(decoder, seed)
    with torch.no_grad():
        decoder.embed_positions.weight.mul_(10)
        for parameter in decoder.layers.parameters():
            parameter.mul_(5 if parameter.ndim > 1 else 1)


def whisper(
    folder: Path,
    *,
    hidden: int = 32,
    layers: int = 2,
    decoder_layers: int = 2,
    heads: int = 2,
    mels: int = 80,
    tokens: int = 100,
    positions: int = 48,
    decoder_ffn: int = 64,
    vocabulary: int = 0,
    headless: bool = False,
    multilingual: bool = True,
    dtype: str = "float32",
) -> Path:
    """A WhisperForConditionalGeneration with its tokenizer, or with `headless` a WhisperModel, which has none.

    Its settings are those of a released multilingual model, or of one that knows English alone. `vocabulary` makes the
    model's larger than that of the tokenizer.
    """
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperModel

    ids = whisper_ids(tokens)
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=max(len(ids), vocabulary),
        num_mel_bins=mels,
        d_model=hidden,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * hidden,
        decoder_layers=decoder_layers,
        decoder_attention_heads=heads,
        decoder_ffn_dim=decoder_ffn,
        max_source_positions=tokens,
        max_target_positions=positions,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        begin_suppress_tokens=None,
    )
    model = (WhisperModel if headless else WhisperForConditionalGeneration)(config)
    enliven(model)
    _enliven_decoder(model.get_decoder())
    if not headless:
        model.tie_weights()
        said = model.generation_config
        # Or transformers makes it of config.json again when it reads the folder.
        said._from_model_config = False
        said.suppress_tokens, said.begin_suppress_tokens = [2, 7, ids["<|startofprev|>"]], [5, end]
        said.no_timestamps_token_id, said.is_multilingual = ids["<|notimestamps|>"], multilingual
        said.max_initial_timestamp_index, said.max_length = 10, positions
        if multilingual:
            said.lang_to_id = {f"<|{code}|>": ids[f"<|{code}|>"] for code in _LANGUAGES}
            said.task_to_id = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    if not headless:
        whisper_tokenizer(folder, ids)
    return folder


def moonshine(
    folder: Path,
    *,
    hidden: int = 40,
    layers: int = 2,
    heads: int = 2,
    positions: int = 48,
    headless: bool = False,
    extractor: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A MoonshineForConditionalGeneration with its tokenizer, or with `headless` a MoonshineModel, which has none.

    A head has 20 channels, 18 of them rotate, and transformers pads them to 24.
    """
    from transformers import MoonshineConfig, MoonshineForConditionalGeneration, MoonshineModel

    words = ["<unk>", "<|start|>", "<|end|>", *(f"w{i}" for i in range(3, 60))]
    made = MoonshineConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        encoder_num_hidden_layers=layers,
        decoder_num_hidden_layers=layers,
        encoder_num_attention_heads=heads,
        decoder_num_attention_heads=heads,
        pad_head_dim_to_multiple_of=8,
        max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.9},
        **config,
    )
    model = (MoonshineModel if headless else MoonshineForConditionalGeneration)(made)
    enliven(model)
    enliven(model.get_decoder(), 2)
    # Louder, so that greedy answers are no word said again and again.
    for parameter in model.get_decoder().layers.parameters():
        parameter.data.mul_(4 if parameter.ndim > 1 else 1)
    model.save_pretrained(folder)
    said = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": False, **(extractor or {})}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    if not headless:
        whisper_tokenizer(folder, {word: i for i, word in enumerate(words)})
    return folder
