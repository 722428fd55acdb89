"""The files of ONNX Runtime GenAI (onnxruntime-genai).

A model that sees becomes its type ``phi3v``, which has an encoder, an embedding and a decoder and no rules of its own.
Its processors of pictures are each of one family, so pixel_values, ids and their number are given by `set_inputs`.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ...runtimes.bundle.manifest import Variant
from ...runtimes.bundle.reader import Bundle
from ...runtimes.bundle.writer import BundleWriter
from . import joined, packed
from .graphs import caches_of
from .texts import texts_of
from .transformers_js import encoder_of, text_files


def write(writer: BundleWriter, bundle: Bundle, variant: Variant, models: dict[str, ir.Model]) -> list[str]:
    """Add all files; see `transformers_js.write`."""
    record = variant.generation
    assert record is not None
    texts = texts_of(bundle, record)
    width = variant.graphs["embed"].inputs["tokens"].shape[2]
    graphs = {
        "vision": encoder_of(variant, models, ("pixel_values", "image_features"), batch=False),
        "embedding": packed.words(width, "image_features", texts.image),
        "text": joined.decoder(models, variant),
    }
    for name, model in graphs.items():
        writer.add_model(f"{name}.onnx", model)
    for file, content in text_files(texts).items():
        writer.add_json(file, content)
    writer.add_json("genai_config.json", _config(variant, width))
    return []


def _config(variant: Variant, width: int) -> dict[str, Any]:
    record, cache = variant.generation, caches_of(variant.graphs["decode"])[0]
    assert record is not None
    decoder = {
        "filename": "text.onnx",
        "hidden_size": width + packed.FURTHER,
        "head_size": cache.dim,
        "num_attention_heads": cache.heads,
        "num_key_value_heads": cache.heads,
        "num_hidden_layers": joined.layers(variant),
        "session_options": {"provider_options": []},
        "inputs": {
            "inputs_embeds": "inputs_embeds",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    return {
        "model": {
            "type": "phi3v",
            "bos_token_id": record.bos,
            "eos_token_id": record.eos,
            "pad_token_id": record.pad,
            "vocab_size": record.vocabulary,
            "context_length": cache.slots,
            "decoder": decoder,
            "embedding": {
                "filename": "embedding.onnx",
                "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
                "outputs": {"inputs_embeds": "inputs_embeds"},
            },
            "vision": {
                "filename": "vision.onnx",
                "inputs": {"pixel_values": "pixel_values"},
                "outputs": {"image_features": "image_features"},
            },
        },
        "search": {
            "do_sample": False,
            "max_length": cache.slots,
            "num_beams": 1,
            "past_present_share_buffer": False,
        },
    }
