"""The files of ONNX Runtime GenAI (onnxruntime-genai).

A model that sees becomes its type ``phi3v``, which has an encoder, an embedding and a decoder and no rules of its own.
Its processors of pictures are each of one family, so pixel_values, ids and their number are given by `set_inputs`.
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from ...runtimes.bundle.manifest import LogMelRecord, Variant
from ...runtimes.bundle.reader import Bundle
from ...runtimes.bundle.writer import BundleWriter
from . import crossing_apart, joined, packed
from .graphs import caches_of
from .texts import texts_of
from .transformers_js import encoder_of, text_files

NAME = "ONNX Runtime GenAI"


def write(writer: BundleWriter, bundle: Bundle, variant: Variant, models: dict[str, ir.Model]) -> list[str]:
    """Add all files; see `transformers_js.write`."""
    record = variant.generation
    assert record is not None
    texts = texts_of(bundle, record, counted=False)
    if record.attention == "cross":
        graphs, config = _hears(bundle, variant, models)
        writer.add_json("audio_processor_config.json", _log_mel(bundle, variant))
    else:
        width = variant.graphs["embed"].inputs["tokens"].shape[2]
        read = next(iter(variant.graphs["encoder"].inputs))
        graphs = {
            "vision": encoder_of(variant, models, (read, "image_features"), batch=False),
            "embedding": packed.words(width, "image_features", texts.image),
            "text": joined.decoder(models, variant),
        }
        config = _sees(variant, width)
    for name, model in graphs.items():
        writer.add_model(f"{name}.onnx", model)
    for file, content in text_files(texts).items():
        writer.add_json(file, content)
    slots = caches_of(variant.graphs["decode"])[0].slots
    marks = {"bos_token_id": record.bos, "eos_token_id": record.eos, "pad_token_id": record.pad}
    writer.add_json(
        "genai_config.json",
        {
            "model": {**config, **marks, "vocab_size": record.vocabulary, "context_length": slots},
            "search": {"do_sample": False, "max_length": slots, "num_beams": 1, "past_present_share_buffer": False},
        },
    )
    kind = texts.tokenizer.get("model", {}).get("type")
    return [f"{NAME} reads no tokenizer of kind {kind}: give it ids"] if kind == "WordLevel" else []


def _decoder(variant: Variant, layers: int, filename: str, names: tuple[str, str]) -> dict[str, Any]:
    """What is said of a decoder; `names` of what goes in and out, with {} for key or value."""
    cache = caches_of(variant.graphs["decode"])[0]
    past, present = names
    return {
        "filename": filename,
        "head_size": cache.dim,
        "num_attention_heads": cache.heads,
        "num_key_value_heads": cache.heads,
        "num_hidden_layers": layers,
        "session_options": {"provider_options": []},
        "inputs": {f"past_{kind}_names": past.format(kind) for kind in ("key", "value")},
        "outputs": {"logits": "logits", **{f"present_{kind}_names": present.format(kind) for kind in ("key", "value")}},
    }


def _sees(variant: Variant, width: int) -> dict[str, Any]:
    names = ("past_key_values.%d.{}", "present.%d.{}")
    decoder = _decoder(variant, joined.layers(variant), "text.onnx", names)
    decoder["inputs"]["inputs_embeds"] = "inputs_embeds"
    return {
        "type": "phi3v",
        "decoder": {**decoder, "hidden_size": width + packed.FURTHER},
        "embedding": {
            "filename": "embedding.onnx",
            "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
            "outputs": {"inputs_embeds": "inputs_embeds"},
        },
        "vision": {
            "filename": "vision.onnx",
            "inputs": {"pixel_values": next(iter(variant.graphs["encoder"].inputs))},
            "outputs": {"image_features": "image_features"},
        },
    }


def _hears(bundle: Bundle, variant: Variant, models: dict[str, ir.Model]) -> tuple[dict[str, ir.Model], dict[str, Any]]:
    size, layers = crossing_apart.FRAMES // 2, len(caches_of(variant.graphs["decode"])) // 2
    graphs = {
        "encoder": crossing_apart.encoder(models, variant, size, size_bias=variant.tells_sizes),
        "decoder": crossing_apart.decoder(models, variant, size),
    }
    decoder = _decoder(variant, layers, "decoder.onnx", ("past_{}_self_%d", "present_{}_self_%d"))
    decoder["inputs"] |= {f"cross_past_{kind}_names": f"past_{kind}_cross_%d" for kind in ("key", "value")}
    decoder["inputs"]["input_ids"] = "input_ids"
    width = variant.graphs["prefill"].inputs["tokens"].shape[2]
    same = ("head_size", "num_attention_heads", "num_hidden_layers", "session_options")
    encoder = {
        "filename": "encoder.onnx",
        "hidden_size": width,
        **{key: decoder[key] for key in same},
        "inputs": {"audio_features": "audio_features"},
        "outputs": {
            "encoder_hidden_states": "encoder_hidden_states",
            **{f"cross_present_{kind}_names": f"present_{kind}_cross_%d" for kind in ("key", "value")},
        },
    }
    return graphs, {"type": "whisper", "encoder": encoder, "decoder": {**decoder, "hidden_size": width}}


def _log_mel(bundle: Bundle, variant: Variant) -> dict[str, Any]:
    """How onnxruntime-extensions makes a spectrogram; the list that it calls a comment is the window."""
    heard = bundle.manifest.preprocess_of(variant)
    assert isinstance(heard, LogMelRecord)
    window = [0.5 - 0.5 * math.cos(2 * math.pi * i / heard.n_fft) for i in range(heard.n_fft)]
    sizes = {"n_fft": heard.n_fft, "hop_length": heard.hop}
    steps: dict[str, dict[str, Any]] = {
        "AudioDecoder": {},
        "STFTNorm": {**sizes, "frame_length": heard.n_fft, "_comment": window},
        "LogMelSpectrum": {**sizes, "chunk_size": heard.samples // heard.sample_rate, "n_mel": heard.mels},
    }
    named = [
        {"operation": {"name": kind, "type": kind, **({"attrs": said} if said else {})}} for kind, said in steps.items()
    ]
    return {"feature_extraction": {"sequence": named}}
