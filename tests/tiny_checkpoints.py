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


def whisper(
    folder: Path,
    *,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 2,
    mels: int = 80,
    tokens: int = 100,
    headless: bool = False,
    dtype: str = "float32",
) -> Path:
    """A WhisperForConditionalGeneration, or with `headless` a WhisperModel, with one decoder layer."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperModel

    config = WhisperConfig(
        vocab_size=16,
        num_mel_bins=mels,
        d_model=hidden,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * hidden,
        decoder_layers=1,
        decoder_attention_heads=heads,
        decoder_ffn_dim=8,
        max_source_positions=tokens,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        begin_suppress_tokens=None,
    )
    model = (WhisperModel if headless else WhisperForConditionalGeneration)(config)
    enliven(model)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder
