"""Random checkpoints whose language models have layers that carry a state: tiny in size, real in structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_checkpoints

VOCABULARY = 96


def patches(pixels: Any, side: int) -> dict[str, Any]:
    """Pictures [B, 3, H, W] as an LFM2-VL takes them, without padding."""
    import torch

    found = pixels.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    rows, columns = found.shape[2], found.shape[4]
    values = found.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": values,
        "spatial_shapes": torch.tensor([[rows, columns]] * len(values)),
        "pixel_attention_mask": torch.ones(values.shape[:2], dtype=torch.int32),
    }


def lfm2_vl(folder: Path, *, side: int = 48, layers: tuple[str, ...] = ("conv", "full_attention", "conv")) -> Path:
    """An LFM2-VL whose picture is 8 x 8 patches, 4 x 4 tokens, over convolutions and attentions.

    Its learned positions are those of 5 x 5 patches.
    """
    from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Lfm2VlConfig(
        vision_config={
            **vision,
            "model_type": "siglip2_vision_model",
            "patch_size": 6,
            "num_patches": 25,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "lfm2",
            "hidden_size": 32,
            "intermediate_size": 64,
            "block_multiple_of": 8,
            "num_hidden_layers": len(layers),
            "layer_types": [*layers],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": VOCABULARY,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 3,
        },
        image_token_id=VOCABULARY - 1,
        projector_hidden_size=48,
    )
    model = Lfm2VlForConditionalGeneration(config)
    tiny_checkpoints.enliven(model)
    tiny_checkpoints.louder(model.model.language_model)
    model.tie_weights()
    model.save_pretrained(folder)
    tokens = (side // 12) ** 2
    limits = {"encoder_patch_size": 6, "downsample_factor": 2, "min_image_tokens": 4, "max_image_tokens": tokens}
    processor = tiny_checkpoints.squares(side, "Lfm2VlImageProcessor", **limits, do_image_splitting=True, do_pad=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    tiny_checkpoints.chat_tokenizer(folder, VOCABULARY, around=("<|image_start|>", "<|image_end|>"))
    return folder
