"""A bundle's encoder in a folder of transformers.js that somebody else made of a vision-language model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import RequestError, alike
from ...runtimes.bundle.writer import BundleWriter
from ..progress import Progress
from . import beside, transformers_js
from .own_llm import Names, Tower, decoder_of, opened, others, read_json

Json = dict[str, Any]
# By the end of a file's name, what transformers.js calls its weights.
DTYPES = {"": "fp32", "_fp16": "fp16", "_quantized": "q8", "_int8": "int8", "_uint8": "uint8", "_q4": "q4"}
DTYPES |= {"_q4f16": "q4f16", "_bnb4": "bnb4"}
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def write(writer: BundleWriter, tower: Tower, folder: Path, step: Progress) -> list[str]:
    """Add the folder with its encoder replaced, and its decoder and words as ones of rows; returns notes.

    Raises:
        RequestError: it is no such folder, or of a model whose image tokens are not counted by its files.
        GraphError, GateError: see `decoder_of`.
    """
    config, processor = read_json(folder, "config.json"), read_json(folder, "processor_config.json")
    kind = config.get("model_type")
    if kind not in COUNTS:
        raise RequestError(
            f"how transformers.js counts the image tokens of a {kind} is not known here: {', '.join(COUNTS)} are",
            where=str(folder / "config.json"),
            fix="Export the whole model: `tokexport model CHECKPOINT`, then export-to without --llm.",
        )
    if config.get("image_token_index", config.get("image_token_id")) is None:
        raise RequestError(
            "it does not say which id stands for a token of an image",
            where=str(folder / "config.json"),
            fix='Write it there: "image_token_index": ID.',
        )
    notes: list[str] = []
    picture = None if tower.picture is None else transformers_js.picture_of(tower.picture)
    reader = read_json(folder, "preprocessor_config.json")
    files = {"processor_config.json": processor, "preprocessor_config.json": reader}
    notes += COUNTS[kind](files, tower, picture)
    external: dict[str, int] = {}
    writer.add_model("onnx/vision_encoder.onnx", tower.rows(several=kind != "llava"), data="vision_encoder.onnx_data")
    external["vision_encoder"] = int((writer.folder / "onnx/vision_encoder.onnx_data").exists())
    decoders, layers = _variants(folder, "decoder_model_merged"), 0
    for name, file in decoders.items():
        step(f"reading {file}")
        done = decoder_of(file, tower, Names(), step)
        layers, notes = done.layers, [*notes, *(note for note in done.notes if note not in notes)]
        if done.words is not None:
            raise RequestError(
                "its decoder reads ids, and transformers.js puts an image's tokens among embeddings",
                where=str(file),
                fix="Export it with an input inputs_embeds, and its words as onnx/embed_tokens.onnx.",
            )
        writer.add_model(f"onnx/{name}.onnx", done.model, data=f"{name}.onnx_data")
        external[name] = int((writer.folder / f"onnx/{name}.onnx_data").exists())
    tables = _variants(folder, "embed_tokens")
    for name, file in tables.items():
        writer.add_model(f"onnx/{name}.onnx", beside.words(opened(file), tower.width), data=f"{name}.onnx_data")
        external[name] = int((writer.folder / f"onnx/{name}.onnx_data").exists())
    _count_layers(config, layers, folder)
    weights = {"vision_encoder": "fp32", "decoder_model_merged": _dtype(decoders), "embed_tokens": _dtype(tables)}
    own = config.get("transformers.js_config") or {}
    config["transformers.js_config"] = {**own, "dtype": weights, "use_external_data_format": external}
    for name, content in {"config.json": config, **files}.items():
        writer.add_json(name, content)
    for name, file in others(folder, {"config.json", *files}):
        writer.add_file(name, file)
    if len({*decoders, *tables}) > 2:
        notes.append('the vision encoder is there in fp32 alone: load it with dtype: { vision_encoder: "fp32", ... }')
    return notes


def _variants(folder: Path, stem: str) -> dict[str, Path]:
    """The files of a graph, by name without ending."""
    found = {file.stem: file for file in sorted((folder / "onnx").glob(f"{stem}*.onnx"))}
    found = {name: file for name, file in found.items() if name.removeprefix(stem) in DTYPES}
    if not found:
        there = [file.name for file in folder.glob("onnx/*.onnx")]
        raise RequestError(
            f"{folder} has no onnx/{stem}.onnx",
            fix=alike(f"{stem}.onnx", there) or "Name a vision-language model in the layout of transformers.js.",
        )
    return found


def _dtype(found: dict[str, Path]) -> str:
    ends = [re.sub("^(decoder_model_merged|embed_tokens)", "", name) for name in found]
    return next(dtype for end, dtype in DTYPES.items() if end in ends)


def _count_layers(config: Json, layers: int, folder: Path) -> None:
    """One layer more, by whose cache log(size) and positions travel."""
    text = config.get("text_config") or {}
    key = next((name for name in _LAYERS if text.get(name) == layers - 1), None)
    if key is None:
        raise RequestError(
            f"its text_config does not say that the language model has {layers - 1} layers, which its decoder has",
            where=str(folder / "config.json"),
            fix=f'Write it there: "text_config": {{"num_hidden_layers": {layers - 1}, ...}}.',
        )
    text[key] = layers


def _llava(files: Json, tower: Tower, picture: Json | None) -> list[str]:
    """It counts patches: one patch is larger than the picture, and all K tokens are additional ones."""
    files["processor_config.json"] |= {"patch_size": max(tower.size) + 1, "num_additional_image_tokens": tower.kept}
    if picture is not None:
        files["preprocessor_config.json"] = picture
        return []
    height, width = tower.size
    return [f"the folder's own preprocessor_config.json reads pictures; the encoder takes {height} x {width} pixels"]


def _idefics3(files: Json, tower: Tower, picture: Json | None) -> list[str]:
    """It counts `image_seq_len` for each tile; the encoder reads whole pictures."""
    side = {"longest_edge": max(tower.size)}
    files["processor_config.json"]["image_seq_len"] = tower.kept
    files["preprocessor_config.json"] |= {"do_image_splitting": False, "max_image_size": side, "size": side}
    return ["pictures are read whole, not in tiles"]


COUNTS: dict[str, Callable[[Json, Tower, Json | None], list[str]]] = {
    "llava": _llava,
    "idefics3": _idefics3,
    "smolvlm": _idefics3,
}
