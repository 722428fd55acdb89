"""Folders that `export-to` wrote, run by plain ONNX Runtime as transformers.js and ONNX Runtime GenAI call them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
Arrays = dict[str, np.ndarray]


def session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(file)


def outputs(graph: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]) -> Arrays:
    return dict(zip([one.name for one in graph.get_outputs()], graph.run(None, dict(feeds)), strict=True))


def empty(graph: onnxruntime.InferenceSession, start: str) -> Arrays:
    """Inputs whose names begin so, no slot of them filled; transformers.js knows an axis by its name, batch_size."""
    return {
        one.name: np.zeros(
            [axis if isinstance(axis, int) else int("batch" in axis) for axis in one.shape], TYPES[one.type]
        )
        for one in graph.get_inputs()
        if one.name.startswith(start)
    }


def greedy(
    decoder: onnxruntime.InferenceSession,
    feed: Callable[[np.ndarray], Arrays],
    prompt: np.ndarray,
    past: Arrays,
    names: tuple[str, str],
    eos: list[int],
    most: int,
    kept: Arrays | None = None,
) -> list[int]:
    """What they do with a decoder: past and present by name, one word after the other; caches grow by what is given."""
    answer: list[int] = []
    ids = prompt
    while len(answer) < most:
        before = next(iter(past.values())).shape[2]
        counted = {
            "attention_mask": np.ones((1, before + ids.shape[1]), np.int64),
            "position_ids": np.arange(before, before + ids.shape[1])[None],
        }
        counted = {name: array for name, array in counted.items() if name in {one.name for one in decoder.get_inputs()}}
        made = outputs(decoder, {**feed(ids), **past, **counted, **(kept or {})})
        logits = made.pop("logits")
        assert logits.shape[1] in (1, ids.shape[1])
        grown = {name.replace(*reversed(names)): value for name, value in made.items()}
        for name, value in past.items():
            if "encoder" not in name:
                assert grown[name].shape[2] == value.shape[2] + ids.shape[1], name
        past = grown
        word = int(logits[0, -1].argmax())
        if word in eos:
            break
        answer.append(word)
        ids = np.array([[word]])
    return answer


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def eos_of(config: Mapping[str, Any]) -> list[int]:
    eos = config.get("eos_token_id", config.get("text_config", {}).get("eos_token_id"))
    return eos if isinstance(eos, list) else [eos]


def transformers_js_sees(folder: Path, ids: list[int], pixels: np.ndarray, most: int) -> list[int]:
    """A llava or a voxtral: the rows of embed_tokens at the placeholders are replaced by those of the encoder."""
    config = read_json(folder / "config.json")
    sees = config["model_type"] == "llava"
    image = config["image_token_index" if sees else "audio_token_id"]
    encoder, read, given = (
        ("vision_encoder", "pixel_values", "image_features")
        if sees
        else ("audio_encoder", "audio_values", "audio_features")
    )
    graphs = {name: session(folder / f"onnx/{name}.onnx") for name in (encoder, "embed_tokens", "decoder_model_merged")}

    def feed(ids: np.ndarray) -> Arrays:
        rows = outputs(graphs["embed_tokens"], {"input_ids": ids})["inputs_embeds"]
        if image in ids and ids.shape[1] > 1:
            features = outputs(graphs[encoder], {read: pixels})[given]
            rows[ids == image] = features.reshape(-1, features.shape[-1])
        return {"inputs_embeds": rows}

    decoder = graphs["decoder_model_merged"]
    past = empty(decoder, "past_key_values.")
    layers = config["text_config"]["num_hidden_layers"]
    assert past.keys() == {f"past_key_values.{i}.{kind}" for i in range(layers) for kind in ("key", "value")}
    return greedy(decoder, feed, np.array([ids]), past, ("past_key_values", "present"), eos_of(config), most)


def transformers_js_hears(folder: Path, prompt: list[int], features: np.ndarray, most: int) -> list[int]:
    """A whisper: presents of the encoder's side are kept from the first step on."""
    config = read_json(folder / "config.json")
    encoder, decoder = (session(folder / f"onnx/{name}.onnx") for name in ("encoder_model", "decoder_model_merged"))
    heard = outputs(encoder, {"input_features": features})["last_hidden_state"]
    past = empty(decoder, "past_key_values.")
    layers = config["decoder_layers"]
    assert len(past) == 4 * layers

    def feed(ids: np.ndarray) -> Arrays:
        return {"input_ids": ids, "encoder_hidden_states": heard}

    return greedy(decoder, feed, np.array([prompt]), past, ("past_key_values", "present"), eos_of(config), most)


def genai_sees(folder: Path, ids: list[int], pixels: np.ndarray, most: int) -> list[int]:
    """A phi3v: outputs have the shapes that are allocated for them; embedding takes no row but for the prompt."""
    model = read_json(folder / "genai_config.json")["model"]
    vision, embedding, text = (session(folder / model[name]["filename"]) for name in ("vision", "embedding", "decoder"))
    width = model["decoder"]["hidden_size"]

    def feed(ids: np.ndarray) -> Arrays:
        features = np.zeros((0, width), np.float32)
        if ids.shape[1] > 1:
            features = outputs(vision, {model["vision"]["inputs"]["pixel_values"]: pixels})["image_features"]
        rows = outputs(embedding, {"input_ids": ids, "image_features": features})["inputs_embeds"]
        assert rows.shape == (1, ids.shape[1], width)
        return {"inputs_embeds": rows}

    past = empty(text, "past_key_values.")
    assert len(past) == 2 * model["decoder"]["num_hidden_layers"]
    return greedy(text, feed, np.array([ids]), past, ("past_key_values", "present"), eos_of(model), most)


def genai_hears(folder: Path, prompt: list[int], features: np.ndarray, most: int) -> list[int]:
    """A whisper whose encoder gives the keys and values of cross-attention, in caches of full length."""
    model = read_json(folder / "genai_config.json")["model"]
    encoder, decoder = (session(folder / model[name]["filename"]) for name in ("encoder", "decoder"))
    made = outputs(encoder, {"audio_features": features})
    size = features.shape[2] // 2
    assert made.pop("encoder_hidden_states").shape == (1, size, model["encoder"]["hidden_size"])
    assert {value.shape[2] for value in made.values()} == {size}
    cross = {name.replace("present", "past"): value for name, value in made.items()}
    past = {name: value for name, value in empty(decoder, "past_").items() if name not in cross}

    def feed(ids: np.ndarray) -> Arrays:
        return {"input_ids": ids}

    return greedy(decoder, feed, np.array([prompt]), past, ("past", "present"), eos_of(model), most, cross)
