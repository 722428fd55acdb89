"""One file per model family: its graphs and its seams.

A family is a module with `open_family(checkpoint) -> Source`; it is imported when config.json names one of its
architectures. Another package adds one by an entry point in the group ``tokexport.families``: its name, and a module
that also has ``ARCHITECTURES``, a tuple of names as in config.json.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ... import entry_points

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint
    from ..sources.source import Source

# File of the family -> the architectures it reads, as in config.json.
FAMILIES: dict[str, tuple[str, ...]] = {
    "llava": ("LlavaForConditionalGeneration",),
    "idefics3": ("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    "internvl": ("InternVLForConditionalGeneration",),
    "paligemma": ("PaliGemmaForConditionalGeneration",),
    "gemma3": ("Gemma3ForConditionalGeneration",),
    "llava_next": ("LlavaNextForConditionalGeneration", "LlavaOnevisionForConditionalGeneration"),
    "pixtral": ("Mistral3ForConditionalGeneration",),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
    ),
    "lfm2_vl": ("Lfm2VlForConditionalGeneration",),
    "qwen2_audio": ("Qwen2AudioForConditionalGeneration",),
    "voxtral": ("VoxtralForConditionalGeneration",),
    "qwen3_asr": ("Qwen3ASRForConditionalGeneration",),
    "glmasr": ("GlmAsrForConditionalGeneration",),
    "granite_speech": ("GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration"),
    "whisper": ("WhisperForConditionalGeneration", "WhisperModel"),
    "moonshine": ("MoonshineForConditionalGeneration", "MoonshineModel"),
    "tower": (
        "ViTForImageClassification",
        "ViTModel",
        "CLIPModel",
        "CLIPVisionModelWithProjection",
        "CLIPVisionModel",
        "SiglipModel",
        "SiglipVisionModel",
        "CLIPForImageClassification",
        "SiglipForImageClassification",
        "Siglip2Model",
        "Siglip2VisionModel",
        "Dinov2Model",
        "Dinov2WithRegistersModel",
        "Dinov2ForImageClassification",
        "Dinov2WithRegistersForImageClassification",
        "DINOv3ViTModel",
    ),
}


# Those that also read videos, with --frames.
VIDEOS = (
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "InternVLForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
)

_PLACES = (
    "gives something for every place of the picture, and puts the tokens back on their grid for it, on which a removed "
    "token leaves a hole",
    "Its tower alone is taken, where it has a family (ViTModel, Dinov2Model, DINOv3ViTModel): its tokens come with the "
    "slot of each place, so that yours can read tokens[assignment].",
)

# The end of an architecture's name -> why none of them has a family, and what to do instead. The figures are those of
# benchmarks/ctc_frames.py, words wrong with half the frames removed.
REFUSED: dict[str, tuple[str, str]] = {
    "ForCTC": (
        "writes a letter or none for every frame, so its frames carry the alignment, and no compressor fits between "
        "its encoder and its text. Of a small one 14 % of the words are wrong, with half the frames 86 % by uniform "
        "choice, 90 % pooled, 20 % merged by kcenter_merge; and behind the encoder is one matrix, so nothing is saved "
        "there",
        "Give its encoder as package.module:callable, merge inside it, and let each frame read the letter of its slot: "
        "logits[assignment]. Behind layer 2 of 4 of the same model that left 16 % wrong.",
    ),
    "ForDepthEstimation": _PLACES,
    "ForSemanticSegmentation": _PLACES,
    "ForMaskedImageModeling": _PLACES,
    "Backbone": _PLACES,
}


def refused(architectures: Iterable[str]) -> tuple[str, str, str] | None:
    """(architecture, why, what to do instead) of the first of these that is known not to fit; None without one."""
    for name in architectures:
        for end, (why, instead) in REFUSED.items():
            if name.endswith(end):
                return name, why, instead
    return None


def family_of(model_type: str, architectures: Iterable[str]) -> Callable[[Checkpoint], Source] | None:
    """What opens a checkpoint of one of these architectures; `model_type` decides where config.json names none."""
    named = set(architectures)
    for name, known in FAMILIES.items():
        if named & set(known) or (not named and model_type == name):
            return import_module(f".{name}", __name__).open_family
    for name, module in added().found.items():
        if named & set(module.ARCHITECTURES) or (not named and model_type == name):
            return module.open_family
    return None


def known_architectures() -> list[str]:
    """Every architecture that some family reads, the built-in ones first."""
    found = [*FAMILIES.values(), *(module.ARCHITECTURES for module in added().found.values())]
    return [name for names in found for name in names]


@functools.cache
def added() -> entry_points.Added[Any]:
    """The modules of the families that other packages add. No architecture of a built-in family can be taken."""
    built_in = {*FAMILIES, *(name for names in FAMILIES.values() for name in names)}
    return entry_points.read(
        "tokexport.families",
        built_in=built_in,
        accept=_accept,
        claims=lambda name, module: (name, *module.ARCHITECTURES),
    )


def _accept(name: str, module: Any) -> Any:
    if not callable(getattr(module, "open_family", None)):
        raise TypeError(f"{module!r} has no open_family(checkpoint)")
    architectures = getattr(module, "ARCHITECTURES", ())
    if not isinstance(architectures, tuple) or not architectures or not all(isinstance(n, str) for n in architectures):
        raise TypeError(f"ARCHITECTURES of {module!r} is {architectures!r}, no tuple of names from config.json")
    return module
