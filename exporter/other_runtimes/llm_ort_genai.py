"""A bundle's encoder in a folder of ONNX Runtime GenAI that somebody else made of a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from ...errors import RequestError
from ...runtimes.bundle.writer import BundleWriter
from ..progress import Progress
from . import beside, packed
from .own_llm import Names, Tower, decoder_of, opened, others, read_json

Json = dict[str, Any]
CONFIG = "genai_config.json"
GRAPHS = ("text", "embedding", "vision")


def write(writer: BundleWriter, tower: Tower, folder: Path, step: Progress) -> list[str]:
    """Add the folder as a model that sees, of type ``phi3v``, see `ort_genai`; returns notes.

    Raises:
        RequestError: it is no such folder, or of a kind that cannot see so.
        GraphError, GateError: see `decoder_of`.
    """
    config = read_json(folder, CONFIG)
    model = config.get("model") or {}
    decoder = model.get("decoder") or {}
    _refuse(folder, model, decoder)
    reads, writes = decoder.get("inputs") or {}, decoder.get("outputs") or {}
    names = Names(
        reads.get("inputs_embeds", beside.EMBEDS),
        (reads.get("past_key_names", Names.past[0]), reads.get("past_value_names", Names.past[1])),
        (writes.get("present_key_names", Names.present[0]), writes.get("present_value_names", Names.present[1])),
    )
    file = folder / decoder["filename"]
    step(f"reading {file}")
    done = decoder_of(file, tower, names, step)
    words, image = _words(folder, model, done.words, tower)
    data = "text.onnx.data"
    writer.add_model("text.onnx", done.model, data=data)
    # A table that is the head's too lies there once.
    writer.add_model("embedding.onnx", words, data=data if done.words is not None else "embedding.onnx.data")
    writer.add_model("vision.onnx", tower.rows())
    decoder |= {
        "filename": "text.onnx",
        "hidden_size": tower.width + packed.FURTHER,
        "num_hidden_layers": done.layers,
        "inputs": {
            **{name: one for name, one in reads.items() if name != "input_ids"},
            "inputs_embeds": beside.EMBEDS,
            "position_ids": beside.POSITIONS,
            **dict(zip(("past_key_names", "past_value_names"), names.past, strict=True)),
        },
    }
    model |= {
        "type": "phi3v",
        "decoder": decoder,
        "embedding": {
            "filename": "embedding.onnx",
            "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
            "outputs": {"inputs_embeds": beside.EMBEDS},
        },
        "vision": {
            "filename": "vision.onnx",
            "inputs": {"pixel_values": "pixel_values"},
            "outputs": {"image_features": "image_features"},
        },
    }
    config["search"] = {**(config.get("search") or {}), "past_present_share_buffer": False}
    writer.add_json(CONFIG, config)
    for name, other in others(folder, {CONFIG}):
        writer.add_file(name, other)
    return [
        *done.notes,
        f"a picture is {tower.kept} ids {image} in input_ids, with pixel_values and num_image_tokens = {tower.kept}",
    ]


def _refuse(folder: Path, model: Json, decoder: Json) -> None:
    what = ""
    if "filename" not in decoder:
        what = "its decoder is no single file"
    elif "speech" in model or "encoder" in model:
        what = "it hears, and what is written here is a model that sees"
    elif "sliding_window" in decoder:
        what = "it keeps a window of its caches, and the sizes of merged tokens would leave it"
    if what:
        raise RequestError(
            what,
            where=str(folder / CONFIG),
            fix="Build the language model alone: python -m onnxruntime_genai.models.builder -m CHECKPOINT -o FOLDER "
            "-p fp32 -e cpu.",
        )


def _words(folder: Path, model: Json, inside: ir.Model | None, tower: Tower) -> tuple[ir.Model, int]:
    """The graph that makes rows of ids and of an image's tokens, and the id of a placeholder."""
    image = model.get("image_token_id")
    if inside is not None:
        # Without a placeholder of its own it is the id behind the last, which the table is not asked for.
        given = image if image is not None else int(model["vocab_size"])
        return beside.words(inside, tower.width, features="image_features", image=given, own=False), given
    embedding = model.get("embedding") or {}
    if "filename" not in embedding:
        raise RequestError(
            "its decoder reads inputs_embeds, and no graph is named that makes them of ids",
            where=str(folder / CONFIG),
            fix="Build it with the words inside, without exclude_embeds.",
        )
    if image is None:
        raise RequestError(
            "it does not say which id stands for a token of an image",
            where=str(folder / CONFIG),
            fix='Write it there: "model": {"image_token_id": ID, ...}.',
        )
    features = (embedding.get("inputs") or {}).get("image_features", "image_features")
    words = opened(folder / embedding["filename"])
    return beside.words(words, tower.width, features=features, image=image, own=True), image
