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


def louder(language: Any, seed: int = 3) -> None:
    """So that greedy answers are no word said again and again."""
    enliven(language, seed)
    for parameter in language.layers.parameters():
        parameter.data.mul_(3 if parameter.ndim > 1 else 1)


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
    language: Any = None,
    loud: bool = False,
    **config: Any,
) -> Path:
    """A LlavaForConditionalGeneration and a CLIP image processor; without `language` that model is one narrow layer,
    and with `loud` its answers are of many words."""
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
    language = language or LlamaConfig(
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
            image_token_index=language.vocab_size - 1,
            image_seq_length=(size // patch) ** 2,
            **config,
        )
    )
    enliven(model)
    if loud:
        louder(model.model.language_model)
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
    chat_tokenizer(folder, language.vocab_size)
    return folder


# As LLaVA-1.5 is asked.
CHAT = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def chat_tokenizer(
    folder: Path,
    vocabulary: int,
    image: str = "<image>",
    template: str | None = CHAT,
    around: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
) -> None:
    """Write a tokenizer.json that begins with <s>, ends with </s> and has `image` last, and a chat template.

    `around` are further special tokens, and `words` further ones that hold white space.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    said = ["<unk>", "<s>", "</s>", "<pad>", "USER:", "ASSISTANT:", "What", "is", "in", "the", "picture?"]
    said += [*around, *words]
    known = [*said, *(f"w{i}" for i in range(len(said), vocabulary - 1)), image]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ("<s>", "</s>", "<pad>", *around, image)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))


def whole_llava(folder: Path, *, kind: str = "llama", vocabulary: int = 96, depth: int = 2, **config: Any) -> Path:
    """A LlavaForConditionalGeneration that answers, of `depth` layers, with a tokenizer and a chat template."""
    return llava(folder, language=answering(vocabulary, kind, num_hidden_layers=depth), text=32, **config)


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


def _chat(image: str) -> str:
    """A chat template that writes `image` for an image."""
    return CHAT.replace("<image>", image)


def squares(side: int, kind: str, **more: Any) -> dict[str, Any]:
    """An image processor that makes every picture a square of `side`."""
    return {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **more,
    }


def answering(vocabulary: int, kind: str = "llama", **config: Any) -> Any:
    """Configuration of a language model of two layers with grouped queries."""
    from transformers import AutoConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": vocabulary}
    return AutoConfig.for_model(kind, **{**sizes, **ids, **config})


def smolvlm(folder: Path, *, size: int = 48, vocabulary: int = 96, kind: str = "smolvlm", loud: bool = False) -> Path:
    """A SmolVLM, or an Idefics3, whose picture is 8 x 8 patches, 4 x 4 tokens behind the pixel shuffle."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        kind,
        vision_config={**vision, "image_size": size, "patch_size": 6},
        text_config=answering(vocabulary).to_dict(),
        image_token_id=vocabulary - 1,
        scale_factor=2,
        tie_word_embeddings=False,
    )
    model = AutoModelForImageTextToText.from_config(config)
    enliven(model)
    if loud:
        louder(model.model.text_model)
    model.save_pretrained(folder)
    tiles = {"do_image_splitting": True, "max_image_size": {"longest_edge": size}, "do_pad": True}
    processor = squares(size, "SmolVLMImageProcessor", **tiles, size={"longest_edge": 4 * size})
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    chat_tokenizer(folder, vocabulary, around=("<fake_token_around_image>", "<global-img>", "<video>"))
    return folder


def internvl(folder: Path, *, size: int = 48, vocabulary: int = 96, loud: bool = False) -> Path:
    """An InternVL whose picture is 8 x 8 patches, 4 x 4 tokens behind the pixel shuffle, over a Qwen2."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = InternVLConfig(
        vision_config={**vision, "image_size": [size, size], "patch_size": [6, 6]},
        text_config=answering(vocabulary, "qwen2").to_dict(),
        image_token_id=vocabulary - 1,
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config)
    enliven(model)
    if loud:
        louder(model.model.language_model)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(squares(size, "GotOcr2ImageProcessor")))
    chat_tokenizer(folder, vocabulary, "<IMG_CONTEXT>", _chat("<IMG_CONTEXT>"), ("<img>", "</img>", "<video>"))
    return folder


def _sliding(depth: int) -> dict[str, Any]:
    """Every other layer of a Gemma slides, the first one too."""
    kinds = ["sliding_attention", "full_attention"] * depth
    return {"layer_types": kinds[:depth], "num_hidden_layers": depth, "sliding_window": 512, "query_pre_attn_scalar": 8}


def gemma3(folder: Path, *, size: int = 48, vocabulary: int = 96, depth: int = 2) -> Path:
    """A Gemma 3 whose picture is 8 x 8 patches, pooled to 4 x 4 tokens; layers of the language model slide."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(
        vision_config={**vision, "image_size": size, "patch_size": 6, "vision_use_head": False},
        text_config=answering(vocabulary, "gemma3_text", **_sliding(depth)).to_dict(),
        mm_tokens_per_image=16,
        image_token_index=vocabulary - 1,
        boi_token_index=11,
        eoi_token_index=12,
    )
    model = Gemma3ForConditionalGeneration(config)
    enliven(model)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(squares(size, "Gemma3ImageProcessor")))
    around = ("<start_of_image>", "<end_of_image>")
    chat_tokenizer(folder, vocabulary, "<image_soft_token>", _chat("<start_of_image>"), around)
    return folder


def paligemma(folder: Path, *, size: int = 48, vocabulary: int = 96, kind: str = "gemma2", depth: int = 2) -> Path:
    """A PaliGemma whose picture is 4 x 4 tokens; of the second version, and layers of its Gemma 2 slide."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    layers = _sliding(depth) if kind == "gemma2" else {"num_hidden_layers": depth}
    second: dict[str, Any] = {"final_logit_softcapping": 2.0} if kind == "gemma2" else {}
    config = PaliGemmaConfig(
        vision_config={
            **vision,
            "model_type": "siglip_vision_model",
            "image_size": size,
            "patch_size": 12,
            "vision_use_head": False,
        },
        text_config=answering(vocabulary, kind, **layers, **second).to_dict(),
        projection_dim=32,
        hidden_size=32,
        image_token_index=vocabulary - 1,
    )
    model = PaliGemmaForConditionalGeneration(config)
    enliven(model)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(squares(size, "SiglipImageProcessor")))
    # The end of a line is a word of its own, and there is no template.
    chat_tokenizer(folder, vocabulary, template=None, words=("\n",))
    return folder
