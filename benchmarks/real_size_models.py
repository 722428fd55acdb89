"""Folders of vision-language models in the sizes of released ones, with random weights and a tokenizer of bare words.

python benchmarks/real_size_models.py NAME FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOS, EOS, PAD = 1, 2, 3
IDS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
QUESTION = "What is in the picture?"
QWEN2_05B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    **IDS,
}


def _smolvlm(vocabulary: int) -> Any:
    from transformers import AutoConfig

    text = AutoConfig.for_model(
        "llama",
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        head_dim=64,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        rope_theta=100_000,
        **IDS,
    )
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return AutoConfig.for_model(
        "smolvlm",
        vision_config={**vision, "image_size": 512, "patch_size": 16},
        text_config=text.to_dict(),
        image_token_id=vocabulary - 1,
        scale_factor=4,
        tie_word_embeddings=False,
    )


def _llava(vocabulary: int) -> Any:
    from transformers import CLIPVisionConfig, LlavaConfig, Qwen2Config

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**vision, image_size=336, patch_size=14, projection_dim=768),
        text_config=Qwen2Config(**QWEN2_05B, vocab_size=vocabulary, tie_word_embeddings=True),
        image_token_index=vocabulary - 1,
        image_seq_length=576,
        tie_word_embeddings=True,
    )


def _internvl(vocabulary: int) -> Any:
    from transformers import InternVLConfig, Qwen2Config

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    return InternVLConfig(
        vision_config={**vision, "image_size": [448, 448], "patch_size": [14, 14]},
        text_config=Qwen2Config(**QWEN2_05B, vocab_size=vocabulary).to_dict(),
        image_token_id=vocabulary - 1,
        image_seq_length=256,
        tie_word_embeddings=False,
    )


def _qwen2_vl(vocabulary: int) -> Any:
    from transformers import Qwen2VLConfig

    text = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        **IDS,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "patch_size": 14},
        image_token_id=vocabulary - 1,
        vision_start_token_id=PAD + 1,
        vision_end_token_id=PAD + 2,
        tie_word_embeddings=True,
    )


@dataclass(frozen=True)
class Sized:
    """A model in its real sizes.

    Attributes:
        config: of transformers, for the vocabulary.
        vocabulary: ids, of which the last is the image's placeholder.
        side: of its square pictures, in pixels.
        processor: of them.
        image: the placeholder.
        around: special words about it, whose ids follow that of PAD.
        turn: what the chat template writes for an image.
    """

    config: Callable[[int], Any]
    vocabulary: int
    side: int
    processor: str
    image: str = "<image>"
    around: tuple[str, ...] = ()
    turn: str = "<image>\n"


MODELS = {
    "smolvlm-500m": Sized(
        _smolvlm, 49_280, 512, "SmolVLMImageProcessor", around=("<fake_token_around_image>", "<global-img>")
    ),
    "llava-clip-l-qwen2-0.5b": Sized(_llava, 151_936, 336, "CLIPImageProcessor"),
    "internvl3-1b": Sized(
        _internvl, 151_674, 448, "GotOcr2ImageProcessor", "<IMG_CONTEXT>", ("<img>", "</img>"), "<IMG_CONTEXT>\n"
    ),
    # 9 GB in float32: for a machine of 32 GB or more.
    "qwen2-vl-2b": Sized(
        _qwen2_vl,
        151_936,
        448,
        "Qwen2VLImageProcessor",
        "<|image_pad|>",
        ("<|vision_start|>", "<|vision_end|>"),
        "<|vision_start|><|image_pad|><|vision_end|>",
    ),
}


def write(name: str, folder: Path) -> None:
    """The folder of one of `MODELS`, as transformers writes it."""
    import torch
    from transformers import AutoModelForImageTextToText

    sized = MODELS[name]
    model = AutoModelForImageTextToText.from_config(sized.config(sized.vocabulary), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            # transformers starts some at zero, and most so near it that a layer changes nothing.
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_processor(sized)))
    _tokenizer(sized, folder)


def _processor(sized: Sized) -> dict[str, Any]:
    """Of pictures that all become one square."""
    size: dict[str, Any] = {"size": {"height": sized.side, "width": sized.side}}
    if sized.processor.startswith("Qwen2VL"):
        pixels = sized.side**2
        size = {"min_pixels": pixels, "max_pixels": pixels, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    return {
        "image_processor_type": sized.processor,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **size,
    }


def _tokenizer(sized: Sized, folder: Path) -> None:
    """Words that white space parts, as many as the model has ids."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    special = ("<s>", "</s>", "<pad>", *sized.around, sized.image)
    known = ["<unk>", *special[:-1], "USER:", "ASSISTANT:", *QUESTION.split()]
    known += [*(f"w{i}" for i in range(len(known), sized.vocabulary - 1)), sized.image]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (
        "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}"
        f"{{{{ {sized.turn!r} }}}}"
        "{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}ASSISTANT:"
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    write(asked.model, asked.folder)


if __name__ == "__main__":
    main()
