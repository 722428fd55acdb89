"""Random checkpoints of Qwen's vision-language models, tiny in size and real in structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_checkpoints

VOCABULARY = 96
IMAGE, STARTS, ENDS, TURN, END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"
VIDEO = "<|video_pad|>"
_MARKS = ("<|endoftext|>", TURN, END, STARTS, ENDS, IMAGE, VIDEO)
IDS = {token: VOCABULARY - len(_MARKS) + i for i, token in enumerate(_MARKS)}

# As the released ones are asked.
CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are w3 .<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' or 'image' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'video' or 'video' in part %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    said = ["<unk>", "system", "user", "assistant", "You", "are", ".", "What", "is", "in", "the", "picture?"]
    words = [*said, *(f"w{i}" for i in range(VOCABULARY - len(said) - len(_MARKS))), *_MARKS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {"eos_token": END, "pad_token": "<|endoftext|>", "bos_token": None, "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))


# Architecture -> what its language model has besides, and needs.
_HEADS = {"head_dim": 16}
# Two heads of values for one of keys; half of the channels of a head of attention rotate.
_LINEAR = {
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
}
_LANGUAGE = {"Qwen3VL": _HEADS, "Qwen3_5": _LINEAR}

# Architecture -> its patches, and what of its vision tower differs from the others.
_TOWERS: dict[str, tuple[int, dict[str, Any]]] = {
    "Qwen2VL": (8, {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}),
    # 9 windows of 2 x 2 tokens in a picture of 96 x 96 pixels.
    "Qwen2_5_VL": (8, {"hidden_size": 32, "out_hidden_size": 32, "window_size": 32, "fullatt_block_indexes": [1]}),
    # Learned positions that do not fit the picture, and two layers that go on beside the last.
    "Qwen3VL": (
        8,
        {"hidden_size": 32, "out_hidden_size": 32, "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1]},
    ),
    "Qwen3_5": (8, {"hidden_size": 32, "out_hidden_size": 32, "num_position_embeddings": 25}),
}


def qwen_vl(folder: Path, kind: str = "Qwen2VL", *, side: int = 96, **config: Any) -> Path:
    """A `kind`ForConditionalGeneration of 8-pixel patches that takes pictures of `side` x `side` pixels, no others."""
    import transformers

    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
            **({"partial_rotary_factor": 0.5} if kind == "Qwen3_5" else {}),
        },
        "bos_token_id": IDS["<|endoftext|>"],
        "eos_token_id": IDS[END],
        "pad_token_id": IDS["<|endoftext|>"],
        **_LANGUAGE.get(kind, {}),
        **config,
    }
    patch, differs = _TOWERS[kind]
    vision = {"depth": 3, "num_heads": 2, "patch_size": patch, "intermediate_size": 48, **differs}
    named = {
        "image_token_id": IDS[IMAGE],
        "video_token_id": IDS[VIDEO],
        "vision_start_token_id": IDS[STARTS],
        "vision_end_token_id": IDS[ENDS],
    }
    made = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **named)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(made)
    tiny_checkpoints.enliven(model)
    tiny_checkpoints.louder(model.model.language_model)
    for name, weight in model.named_parameters():
        if name.endswith("A_log"):
            # So that linear attentions forget slowly: the picture is many tokens back.
            weight.data -= 3
    model.tie_weights()
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
        "min_pixels": side**2,
        "max_pixels": side**2,
        "patch_size": 8,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    _tokenizer(folder)
    return folder
