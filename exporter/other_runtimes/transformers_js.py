"""The files of transformers.js (@huggingface/transformers) and of optimum's ONNX folders.

A model that sees becomes a `llava` whatever it was: what differs between families (how positions count, where the image
stands, what it attends to) is inside the graphs of a bundle, and a llava is what transformers.js treats without rules
of its own. A model that hears becomes a `whisper`. The number of placeholders is told by processor_config.json: the
processor counts patches, so one patch is larger than the picture, and all K tokens are additional ones.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ...runtimes.bundle.manifest import LogMelRecord, PreprocessRecord, Variant
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
    texts = texts_of(bundle, record)
    if record.attention == "cross":
        graphs = {
            "encoder_model": encoder_of(variant, models, ("input_features", "last_hidden_state"), batch=True),
            "decoder_model_merged": crossing.decoder(models, variant),
        }
        files, notes = _hears(bundle, variant), []
    else:
        graphs = {
            "vision_encoder": encoder_of(variant, models, ("pixel_values", "image_features"), batch=False),
            "embed_tokens": packed.words(variant.graphs["embed"].inputs["tokens"].shape[2]),
            "decoder_model_merged": joined.decoder(models, variant),
        }
        files, notes = _sees(bundle, variant, texts)
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
        size_bias=reads_sizes(variant),
        batch=batch,
    )


def reads_sizes(variant: Variant) -> bool:
    """Whether the decoder is told log(size) of the encoder's tokens."""
    return any(one.size_bias for one in variant.compression if one.seam.graph == "encoder")


def text_files(texts: Texts) -> dict[str, Any]:
    """The files of the tokenizer."""
    return {"tokenizer.json": texts.tokenizer, "tokenizer_config.json": texts.config}


def _marks(variant: Variant) -> dict[str, Any]:
    record = variant.generation
    assert record is not None
    eos = record.eos if len(record.eos) > 1 else record.eos[0]
    return {"bos_token_id": record.bos, "pad_token_id": record.pad, "eos_token_id": eos}


def _sees(bundle: Bundle, variant: Variant, texts: Texts) -> tuple[dict[str, Any], list[str]]:
    record, cache = variant.generation, caches_of(variant.graphs["decode"])[0]
    assert record is not None
    config = {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": texts.image,
        "text_config": {
            "model_type": "llama",
            "num_hidden_layers": joined.layers(variant),
            "num_attention_heads": cache.heads,
            "num_key_value_heads": cache.heads,
            "head_dim": cache.dim,
            "hidden_size": cache.heads * cache.dim,
            "vocab_size": record.vocabulary,
        },
        **_marks(variant),
    }
    generation = {**_marks(variant), "max_new_tokens": record.max_new_tokens, "do_sample": False}
    files: dict[str, Any] = {"config.json": config, "generation_config.json": generation}
    picture = bundle.manifest.preprocess_of(variant)
    resizing = _resizing(picture) if isinstance(picture, PreprocessRecord) else None
    if not isinstance(picture, PreprocessRecord) or resizing is None:
        why = "pads pictures with their mean colour" if picture is not None else "does not say how pictures are read"
        return files, [
            f"the bundle {why}, which no file of transformers.js can say: give the model pixel_values of your own"
        ]
    files["preprocessor_config.json"] = {
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
    files["processor_config.json"] = {
        "processor_class": "LlavaProcessor",
        "image_token": texts.place,
        "patch_size": max(picture.size) + 1,
        "num_additional_image_tokens": record.image_span[1],
    }
    return files, []


def _resizing(picture: PreprocessRecord) -> dict[str, Any] | None:
    """How a picture gets its size; None where it cannot be said."""
    height, width = picture.size
    size = {"height": height, "width": width}
    if picture.crop == "none":
        return {"size": size, "do_center_crop": False}
    if picture.crop == "center" and (picture.shortest or height == width):
        return {"size": {"shortest_edge": picture.shortest or height}, "do_center_crop": True, "crop_size": size}
    return None


def _hears(bundle: Bundle, variant: Variant) -> dict[str, Any]:
    record, heard = variant.generation, bundle.manifest.preprocess_of(variant)
    assert record is not None and record.speech is not None and isinstance(heard, LogMelRecord)
    own, speech = caches_of(variant.graphs["decode"]), record.speech
    heads, width = own[0].heads, own[0].heads * own[0].dim
    layers = len(own) // 2
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "is_encoder_decoder": True,
        "d_model": width,
        "decoder_layers": layers,
        "encoder_layers": layers,
        "decoder_attention_heads": heads,
        "encoder_attention_heads": heads,
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
    processor = {
        "processor_class": "WhisperProcessor",
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": heard.mels,
        "n_fft": heard.n_fft,
        "hop_length": heard.hop,
        "sampling_rate": heard.sample_rate,
        "n_samples": heard.samples,
        "nb_max_frames": heard.frames,
        "chunk_length": heard.samples / heard.sample_rate,
    }
    return {
        "config.json": config,
        "generation_config.json": {key: value for key, value in generation.items() if value is not None},
        "preprocessor_config.json": processor,
    }
