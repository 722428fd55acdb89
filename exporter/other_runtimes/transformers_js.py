"""The files of transformers.js (@huggingface/transformers) and of optimum's ONNX folders.

A model that sees becomes a `llava` whatever it was: what differs between families (how positions count, where the image
stands, what it attends to) is inside the graphs of a bundle, and a llava is what transformers.js treats without rules
of its own; a `voxtral` is the same for sounds. A model that hears by cross-attention becomes a `whisper`. The number of
placeholders is told by processor_config.json: the processor counts patches, so one patch is larger than the picture,
and all K tokens are additional ones.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ...runtimes.bundle.manifest import GenerationRecord, LogMelRecord, PreprocessRecord, Variant
from ...runtimes.bundle.reader import Bundle
from ...runtimes.bundle.writer import BundleWriter
from . import crossing, joined, packed
from .graphs import caches_of
from .texts import Texts, texts_of

RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
Models = dict[str, ir.Model]


def write(writer: BundleWriter, bundle: Bundle, variant: Variant, models: Models) -> list[str]:
    """Add all files; returns what a user must know.

    Args:
        writer: of the folder.
        bundle: opened.
        variant: of it, which `carried.check` lets pass.
        models: its graphs by role.

    Raises:
        RequestError: the bundle has no tokenizer.
    """
    record = variant.generation
    assert record is not None
    heard = bundle.manifest.preprocess_of(variant)
    picture = picture_of(heard) if isinstance(heard, PreprocessRecord) else None
    texts = texts_of(bundle, record, counted=picture is not None)
    notes: list[str] = []
    files: dict[str, Any]
    if record.attention == "cross":
        graphs = {
            "encoder_model": encoder_of(variant, models, ("input_features", "last_hidden_state"), batch=True),
            "decoder_model_merged": crossing.decoder(models, variant),
        }
        files = _hears(variant, heard)
    else:
        read = next(iter(variant.graphs["encoder"].inputs))
        kind, given = ("vision", read) if read == "pixel_values" else ("audio", "audio_values")
        made = "image_features" if kind == "vision" else "audio_features"
        graphs = {
            f"{kind}_encoder": encoder_of(variant, models, (given, made), batch=False),
            "embed_tokens": packed.words(variant.graphs["embed"].inputs["tokens"].shape[2]),
            "decoder_model_merged": joined.decoder(models, variant),
        }
        files = _joined(variant, texts, kind)
        if picture is not None:
            files |= {"preprocessor_config.json": picture, "processor_config.json": _places(picture, texts, record)}
        elif isinstance(heard, LogMelRecord):
            files["preprocessor_config.json"] = _spectrogram(heard)
        else:
            shape = list(variant.graphs["encoder"].inputs[read].shape)
            notes.append(
                f"no processor of transformers.js makes this model's input: give it {given} {shape} of your own"
            )
    external = {}
    for name, model in graphs.items():
        writer.add_model(f"onnx/{name}.onnx", model, data=f"{name}.onnx_data")
        external[name] = int((writer.folder / f"onnx/{name}.onnx_data").exists())
    files["config.json"]["transformers.js_config"] = {"dtype": "fp32", "use_external_data_format": external}
    for name, content in {**files, **text_files(texts)}.items():
        writer.add_json(name, content)
    return notes


def encoder_of(variant: Variant, models: Models, names: tuple[str, str], *, batch: bool) -> ir.Model:
    """The encoder with the rows of `packed` for its output."""
    role = "prefill" if variant.generation and variant.generation.attention == "cross" else "embed"
    return packed.encoder(
        models["encoder"],
        {name: one.name for name, one in variant.graphs["encoder"].outputs.items()},
        names,
        variant.graphs[role].inputs["tokens"].shape[2],  # type: ignore[index]
        size_bias=variant.tells_sizes,
        batch=batch,
    )


def text_files(texts: Texts) -> dict[str, Any]:
    """The files of the tokenizer."""
    return {"tokenizer.json": texts.tokenizer, "tokenizer_config.json": texts.config}


def _marks(variant: Variant) -> dict[str, Any]:
    record = variant.generation
    assert record is not None
    eos = record.eos if len(record.eos) > 1 else record.eos[0]
    return {"bos_token_id": record.bos, "pad_token_id": record.pad, "eos_token_id": eos}


def _joined(variant: Variant, texts: Texts, kind: str) -> dict[str, Any]:
    """The configuration of a model whose tokens are a part of its text."""
    record, cache = variant.generation, caches_of(variant.graphs["decode"])[0]
    assert record is not None
    name = {
        "vision": {
            "model_type": "llava",
            "architectures": ["LlavaForConditionalGeneration"],
            "image_token_index": texts.image,
        },
        "audio": {
            "model_type": "voxtral",
            "architectures": ["VoxtralForConditionalGeneration"],
            "audio_token_id": texts.image,
        },
    }[kind]
    text = {
        "model_type": "llama",
        "num_hidden_layers": joined.layers(variant),
        "num_attention_heads": cache.heads,
        "num_key_value_heads": cache.heads,
        "head_dim": cache.dim,
        "hidden_size": cache.heads * cache.dim,
        "vocab_size": record.vocabulary,
    }
    generation = {**_marks(variant), "max_new_tokens": record.max_new_tokens, "do_sample": False}
    return {"config.json": {**name, "text_config": text, **_marks(variant)}, "generation_config.json": generation}


def picture_of(picture: PreprocessRecord) -> dict[str, Any] | None:
    """How a picture is read; None where no file of transformers.js can say it: tiles, or the mean colour around it."""
    height, width = picture.size
    size = {"height": height, "width": width}
    if picture.crop == "none":
        resizing: dict[str, Any] = {"size": size, "do_center_crop": False}
    elif picture.crop == "center" and (picture.shortest or height == width):
        resizing = {"size": {"shortest_edge": picture.shortest or height}, "do_center_crop": True, "crop_size": size}
    else:
        return None
    if picture.tiles is not None:
        return None
    return {
        "processor_class": "LlavaProcessor",
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        **resizing,
        "resample": RESAMPLE[picture.resample],
        "do_rescale": True,
        "rescale_factor": picture.rescale,
        "do_normalize": True,
        "image_mean": list(picture.mean),
        "image_std": list(picture.std),
        "do_convert_rgb": True,
    }


def _places(picture: dict[str, Any], texts: Texts, record: GenerationRecord) -> dict[str, Any]:
    size = picture.get("crop_size", picture["size"])
    return {
        "processor_class": "LlavaProcessor",
        "image_token": texts.place,
        "patch_size": max(size.values()) + 1,
        "num_additional_image_tokens": record.image_span[1],
    }


def _spectrogram(heard: LogMelRecord) -> dict[str, Any]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": heard.mels,
        "n_fft": heard.n_fft,
        "hop_length": heard.hop,
        "sampling_rate": heard.sample_rate,
        "n_samples": heard.samples,
        "nb_max_frames": heard.frames,
        "chunk_length": heard.samples / heard.sample_rate,
    }


def _hears(variant: Variant, heard: Any) -> dict[str, Any]:
    record = variant.generation
    assert record is not None and record.speech is not None and isinstance(heard, LogMelRecord)
    own, speech = caches_of(variant.graphs["decode"]), record.speech
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "is_encoder_decoder": True,
        "d_model": own[0].heads * own[0].dim,
        **{f"{side}_layers": len(own) // 2 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": own[0].heads for side in ("encoder", "decoder")},
        "num_mel_bins": heard.mels,
        "max_source_positions": heard.frames // 2,
        "vocab_size": record.vocabulary,
        "decoder_start_token_id": speech.start,
        **_marks(variant),
    }
    generation = {
        **_marks(variant),
        "decoder_start_token_id": speech.start,
        "max_new_tokens": record.max_new_tokens,
        "is_multilingual": bool(speech.languages),
        "lang_to_id": {f"<|{code}|>": i for code, i in speech.languages.items()},
        "task_to_id": speech.tasks,
        "no_timestamps_token_id": speech.no_timestamps,
        "max_initial_timestamp_index": speech.latest_start,
        "do_sample": False,
    }
    return {
        "config.json": config,
        "generation_config.json": {key: value for key, value in generation.items() if value is not None},
        "preprocessor_config.json": {"processor_class": "WhisperProcessor", **_spectrogram(heard)},
    }
