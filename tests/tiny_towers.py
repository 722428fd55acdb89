"""Small random image towers, in folders as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_checkpoints import enliven

SIDE, PATCH, CLASSES = 48, 8, 5
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_WHOLE = {**_SIZES, "intermediate_size": 48, "image_size": SIDE, "patch_size": PATCH}
_PATCHED = {**_SIZES, "intermediate_size": 48, "patch_size": PATCH, "num_patches": (SIDE // PATCH) ** 2}
# Made for larger pictures than its processor gives, as DINOv2's released folders are.
_DINO = {**_SIZES, "mlp_ratio": 2, "image_size": SIDE + 2 * PATCH, "patch_size": PATCH}
_NAMES = {"id2label": {i: f"kind {i}" for i in range(CLASSES)}}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_TEXT = {
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    **_IDS,
}
_SIGLIP_TEXT = {**_TEXT, "projection_size": 32}

# Architecture -> what its configuration has beside the defaults.
TOWERS: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {**_WHOLE, **_NAMES},
    "ViTModel": _WHOLE,
    "CLIPModel": {"vision_config": _WHOLE, "text_config": _TEXT, "projection_dim": 24},
    "CLIPVisionModelWithProjection": {**_WHOLE, "projection_dim": 24},
    "CLIPVisionModel": _WHOLE,
    "SiglipModel": {"vision_config": _WHOLE, "text_config": _SIGLIP_TEXT},
    "SiglipVisionModel": _WHOLE,
    "CLIPForImageClassification": {"vision_config": _WHOLE, "text_config": _TEXT, **_NAMES},
    "SiglipForImageClassification": {"vision_config": _WHOLE, "text_config": _SIGLIP_TEXT, **_NAMES},
    "Siglip2Model": {"vision_config": _PATCHED, "text_config": _SIGLIP_TEXT},
    "Siglip2VisionModel": _PATCHED,
    "Dinov2Model": _DINO,
    "Dinov2WithRegistersModel": {**_DINO, "num_register_tokens": 3},
    "Dinov2ForImageClassification": {**_DINO, **_NAMES},
    "Dinov2WithRegistersForImageClassification": {**_DINO, **_NAMES, "num_register_tokens": 3},
    "DINOv3ViTModel": {**_WHOLE, "num_register_tokens": 3},
}


def tower(folder: Path, architecture: str, *, pooler: bool = True, dtype: str = "float32", **config: Any) -> Path:
    """A folder of one of `TOWERS`, with the image processor of its kind."""
    import torch
    import transformers

    kind = getattr(transformers, architecture)
    options = {} if pooler else {"add_pooling_layer": False}
    model = kind(kind.config_class(**{**TOWERS[architecture], **config}), **options)
    enliven(model)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor(architecture)))
    return folder


def processor(architecture: str) -> dict[str, Any]:
    """The content of preprocessor_config.json, as released folders have it."""
    said: dict[str, Any] = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.25, 0.3],
        "resample": 2,
        "size": {"height": SIDE, "width": SIDE},
        "image_processor_type": "ViTImageProcessor",
    }
    if architecture.startswith("CLIP"):
        crop = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "size": {"shortest_edge": SIDE}}
        return {**said, **crop, "resample": 3, "image_processor_type": "CLIPImageProcessor"}
    if architecture.startswith("Dinov2"):
        crop = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}
        return {**said, **crop, "size": {"shortest_edge": SIDE + 8}, "image_processor_type": "BitImageProcessor"}
    if architecture.startswith("Siglip2"):
        patched = {"patch_size": PATCH, "max_num_patches": (SIDE // PATCH) ** 2}
        return {**said, **patched, "size": None, "image_processor_type": "Siglip2ImageProcessor"}
    if architecture.startswith("DINOv3"):
        return {**said, "image_processor_type": "DINOv3ViTImageProcessor"}
    if architecture.startswith("Siglip"):
        return {**said, "resample": 3, "image_processor_type": "SiglipImageProcessor"}
    return said
