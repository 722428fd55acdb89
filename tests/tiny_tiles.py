"""Random checkpoints of models whose tokens form rows that end, tiny in size and real in structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_checkpoints

# Heights and widths of all tiles together, of 24 pixels each.
GRIDS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
VOCABULARY, SIDE = 96, 24
# Of the place of a video, behind the words that `chat_tokenizer` begins with.
VIDEO = 11


def _tower(**more: Any) -> dict[str, Any]:
    """A ViT, but for `more` of 4 x 4 patches."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    return {**sizes, "image_size": SIDE, "patch_size": 6, **more}


def _written(folder: Path, model: Any, kind: str, **processor: Any) -> Path:
    tiny_checkpoints.enliven(model)
    tiny_checkpoints.louder(model.model.language_model)
    model.save_pretrained(folder)
    said = tiny_checkpoints.squares(SIDE, f"{kind}ImageProcessor", image_grid_pinpoints=GRIDS, **processor)
    (folder / "preprocessor_config.json").write_text(json.dumps({**said, "do_pad": True}))
    tiny_checkpoints.chat_tokenizer(folder, VOCABULARY)
    return folder


def llava_next(folder: Path, **config: Any) -> Path:
    """A LLaVA-NeXT over CLIP and a Llama; a square picture is one of 16 tokens and 2 x 2 tiles."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    made = LlavaNextConfig(
        vision_config=_tower(model_type="clip_vision_model"),
        text_config=tiny_checkpoints.answering(VOCABULARY).to_dict(),
        image_token_index=VOCABULARY - 1,
        image_grid_pinpoints=GRIDS,
        **config,
    )
    crop = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "size": {"shortest_edge": SIDE}}
    return _written(folder, LlavaNextForConditionalGeneration(made), "LlavaNext", **crop)


def llava_onevision(folder: Path, *, ratio: str = "anyres_max_1", patch: int = 6, **config: Any) -> Path:
    """A LLaVA-OneVision over SigLIP and a Qwen2, which shrinks all that is larger than one tile."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    made = LlavaOnevisionConfig(
        vision_config=_tower(model_type="siglip_vision_model", vision_use_head=False, patch_size=patch),
        text_config=tiny_checkpoints.answering(VOCABULARY, "qwen2").to_dict(),
        image_token_index=VOCABULARY - 1,
        video_token_index=VIDEO,
        image_grid_pinpoints=GRIDS,
        vision_aspect_ratio=ratio,
        **config,
    )
    _written(folder, LlavaOnevisionForConditionalGeneration(made), "LlavaOnevision")
    tiny_checkpoints.chat_tokenizer(folder, VOCABULARY, around=("<video>",))
    return folder


def pixtral(folder: Path, kind: str = "mistral3") -> Path:
    """A Mistral 3, or with ``llava`` a Pixtral; a token of the first is 12 x 12 pixels, of the other 6 x 6."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    full = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", "image_seq_length": 1}
    config = AutoConfig.for_model(
        kind,
        vision_config={**sizes, "model_type": "pixtral", "image_size": 96, "patch_size": 6},
        text_config=tiny_checkpoints.answering(VOCABULARY, "mistral", sliding_window=None).to_dict(),
        image_token_index=VOCABULARY - 1,
        tie_word_embeddings=False,
        **(full if kind == "llava" else {}),
    )
    model = AutoModelForImageTextToText.from_config(config)
    tiny_checkpoints.enliven(model)
    tiny_checkpoints.louder(model.model.language_model)
    model.save_pretrained(folder)
    processor = tiny_checkpoints.squares(96, "PixtralImageProcessor", size={"longest_edge": 96})
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "patch_size": 6, "do_pad": True}))
    around = ("[IMG_BREAK]", "[IMG_END]")
    template = tiny_checkpoints.CHAT.replace("<image>", "[IMG]")
    tiny_checkpoints.chat_tokenizer(folder, VOCABULARY, "[IMG]", template, around)
    return folder
