"""Every family that tokexport reads, as a folder tiny in size and real in structure: the one list of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tiny_audio import glmasr, granite_speech, granite_speech_plus, qwen2_audio, qwen3_asr, voxtral
from tiny_checkpoints import gemma3, internvl, moonshine, paligemma, smolvlm, whisper, whole_llava
from tiny_hybrids import lfm2_vl
from tiny_qwen_vl import qwen_vl
from tiny_tiles import llava_next, llava_onevision, pixtral
from tiny_towers import TOWERS, tower


@dataclass(frozen=True)
class Family:
    """A row of the table of families.

    Attributes:
        name: as in the table.
        architecture: as in config.json.
        make: writes the folder.
        options: of `tokexport model`.
    """

    name: str
    architecture: str
    make: Callable[[Path], Any]
    options: tuple[str, ...] = ()


# How an image tower is called, by how its architecture begins.
_TOWERS = {
    "ViT": "ViT",
    "CLIP": "CLIP, its image side",
    "Siglip2": "SigLIP 2, its image side",
    "Siglip": "SigLIP, its image side",
    "Dinov2WithRegisters": "DINOv2 with registers",
    "Dinov2": "DINOv2",
    "DINOv3": "DINOv3",
}

# Of videos, with so many frames: the words between them are longer than a question.
_VIDEO = ("--frames", "4", "--prompt-length", "96")

FAMILIES = (
    Family("LLaVA-1.5 over CLIP", "LlavaForConditionalGeneration", whole_llava),
    Family(
        "LLaVA-1.5 that keeps CLS",
        "LlavaForConditionalGeneration",
        partial(whole_llava, vision_feature_select_strategy="full"),
    ),
    Family("LLaVA-1.5 over SigLIP", "LlavaForConditionalGeneration", partial(whole_llava, tower="siglip")),
    Family("LLaVA-NeXT", "LlavaNextForConditionalGeneration", llava_next),
    Family("LLaVA-OneVision", "LlavaOnevisionForConditionalGeneration", llava_onevision),
    Family("LLaVA-OneVision, videos", "LlavaOnevisionForConditionalGeneration", llava_onevision, _VIDEO),
    Family("Idefics3", "Idefics3ForConditionalGeneration", partial(smolvlm, kind="idefics3")),
    Family("SmolVLM, SmolVLM2", "SmolVLMForConditionalGeneration", smolvlm),
    Family("SmolVLM2, videos", "SmolVLMForConditionalGeneration", smolvlm, _VIDEO),
    Family("InternVL", "InternVLForConditionalGeneration", internvl),
    Family("InternVL, videos", "InternVLForConditionalGeneration", internvl, _VIDEO),
    Family("Qwen2-VL", "Qwen2VLForConditionalGeneration", qwen_vl),
    Family("Qwen2-VL, videos", "Qwen2VLForConditionalGeneration", qwen_vl, _VIDEO),
    Family("Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", partial(qwen_vl, kind="Qwen2_5_VL")),
    Family("Qwen2.5-VL, videos", "Qwen2_5_VLForConditionalGeneration", partial(qwen_vl, kind="Qwen2_5_VL"), _VIDEO),
    Family("Qwen3-VL", "Qwen3VLForConditionalGeneration", partial(qwen_vl, kind="Qwen3VL")),
    Family("Qwen3-VL, videos", "Qwen3VLForConditionalGeneration", partial(qwen_vl, kind="Qwen3VL"), _VIDEO),
    Family("Qwen3.5", "Qwen3_5ForConditionalGeneration", partial(qwen_vl, kind="Qwen3_5")),
    Family("Qwen3.5, videos", "Qwen3_5ForConditionalGeneration", partial(qwen_vl, kind="Qwen3_5"), _VIDEO),
    Family("LFM2-VL", "Lfm2VlForConditionalGeneration", lfm2_vl),
    Family("PaliGemma", "PaliGemmaForConditionalGeneration", partial(paligemma, kind="gemma")),
    Family("PaliGemma 2", "PaliGemmaForConditionalGeneration", paligemma),
    Family("Gemma 3", "Gemma3ForConditionalGeneration", gemma3),
    Family("Mistral 3", "Mistral3ForConditionalGeneration", pixtral),
    Family("Pixtral", "LlavaForConditionalGeneration", partial(pixtral, kind="llava")),
    Family("Qwen2-Audio", "Qwen2AudioForConditionalGeneration", qwen2_audio),
    Family("Voxtral", "VoxtralForConditionalGeneration", voxtral),
    Family("Qwen3-ASR", "Qwen3ASRForConditionalGeneration", qwen3_asr),
    Family("GLM-ASR", "GlmAsrForConditionalGeneration", glmasr),
    Family("Granite-Speech", "GraniteSpeechForConditionalGeneration", granite_speech),
    Family("Granite-Speech Plus", "GraniteSpeechPlusForConditionalGeneration", granite_speech_plus),
    Family("Whisper", "WhisperForConditionalGeneration", whisper),
    Family("Whisper without a head", "WhisperModel", partial(whisper, headless=True)),
    Family("Moonshine", "MoonshineForConditionalGeneration", moonshine),
    Family("Moonshine without a head", "MoonshineModel", partial(moonshine, headless=True)),
    *(
        Family(
            next(name for start, name in _TOWERS.items() if architecture.startswith(start)),
            architecture,
            partial(tower, architecture=architecture),
        )
        for architecture in TOWERS
    ),
)


def key(family: Family) -> str:
    """What a row is called in files and commands: the same of no two."""
    words = family.architecture if family.architecture in TOWERS else family.name
    return "-".join(words.lower().replace(",", "").split())
