"""Small random image towers, in folders as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_checkpoints import enliven

SIDE, PATCH, CLASSES = 48, 8, 5
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_WHOLE = {**_SIZES, "intermediate_size": 48, "image_size": SIDE, "patch_size": PATCH}

# Architecture -> what its configuration has beside the defaults.
TOWERS: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {**_WHOLE, "id2label": {i: f"kind {i}" for i in range(CLASSES)}},
    "ViTModel": _WHOLE,
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
    return said
