"""Write Moonshine tiny, English, as a checkpoint folder of transformers, from the weights that a package ships.

    python benchmarks/real/moonshine_tiny.py FOLDER

The package holds graphs of ONNX Runtime whose products have weights of 8 bits, one scale for each: the model that comes
out is the one that the package runs, in float32. The recordings of a later version, whose graphs are smaller, are put
beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "moonshine-voice"
# Version -> platform and SHA-256 of its file.
FILES = {
    "0.0.4": ("manylinux_2_35_x86_64", "3972597eb3e38fed1b71cac7addda9990dfdaee79e8979246803542e66334ab1"),
    "0.0.73": ("manylinux_2_34_x86_64", "6461c8097ed78d054c46b4c821143008a07b5fa1f4169674493ccfa06c1407db"),
}
WITH_WEIGHTS, WITH_SOUNDS = FILES
SOUNDS = ("beckett.wav", "two_cities.wav", "endgame_nagg_nell.wav")

_DTYPES: dict[int, type] = {1: np.float32, 2: np.uint8, 3: np.int8}
_PRODUCTS = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")
# After <unk>, <s> and </s>: what the vocabulary has no piece for.
_BYTES = range(3, 259)


def assets(folder: Path, version: str) -> Path:
    """Download a version of the package; where its files lie."""
    platform, sha256 = FILES[version]
    folder = folder / version
    folder.mkdir()
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={version} --hash=sha256:{sha256}\n")
    how = ["--require-hashes", "--only-binary", ":all:", "--platform", platform, "--no-deps", "-d", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *how, "-r", str(wanted)], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if "/assets/" in name])
    return folder / "moonshine_voice" / "assets"


def weights(file: Path) -> dict[str, np.ndarray]:
    """The weights in a graph of ONNX Runtime's own format, by their names in transformers."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    graphs = [*_graphs(InferenceSession.GetRootAs(file.read_bytes(), 0).Model().Graph())]
    arrays = {name: array for graph in graphs for name, array in _arrays(graph)}

    def whole(name: str) -> np.ndarray:
        stem = name.removesuffix("_quantized")
        scale, zero = arrays[f"{stem}_scale"], arrays[f"{stem}_zero_point"].astype(np.float32)
        return (arrays[name].astype(np.float32) - zero) * scale

    plain = {name.split("_merged")[0]: array for name, array in arrays.items()}
    found = {name: array for name, array in plain.items() if name.endswith((".weight", ".bias"))}
    for graph in graphs:
        for kind, name, inputs in _nodes(graph):
            if kind in _PRODUCTS:
                path = name.removeprefix("/").rpartition("/")[0].replace("/", ".")
                found[f"{path}.weight"] = whole(inputs[1]).T
            elif kind == "Gather" and "embed_tokens" in name and inputs[0].endswith("_quantized"):
                found["model.decoder.embed_tokens.weight"] = whole(inputs[0])
            elif name in ("/groupnorm/Mul", "/groupnorm/Add"):
                found[f"groupnorm.{'weight' if kind == 'Mul' else 'bias'}"] = arrays[inputs[1]].reshape(-1)
    return found


def tokenizer(pieces: list[str]) -> dict[str, Any]:
    """tokenizer.json that turns ids into text; how a text is cut into pieces is not in the package."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    decoders = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": piece, **special} for i, piece in enumerate(pieces[: _BYTES.start])],
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "unk_token": pieces[0],
            "byte_fallback": True,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [],
        },
    }


def pieces_of(content: bytes) -> list[str]:
    """The vocabulary: each piece after its length, of two bytes where the first is 128 or more."""
    found: list[str] = []
    at = 0
    while at < len(content):
        length, at = content[at], at + 1
        if length >= 128:
            length, at = content[at] * 128 + length - 128, at + 1
        number = len(found)
        piece = f"<0x{content[at]:02X}>" if number in _BYTES else content[at : at + length].decode()
        # A piece that is there twice is written by the first of its ids.
        found.append(piece if piece not in found[: _BYTES.stop] else f"{piece}\0{number}")
        at += length
    return found


def write(folder: Path) -> None:
    """Write the checkpoint and the recordings."""
    import torch
    from transformers import MoonshineConfig, MoonshineForConditionalGeneration

    with tempfile.TemporaryDirectory() as scratch:
        where, heard = (assets(Path(scratch), version) for version in (WITH_WEIGHTS, WITH_SOUNDS))
        state = {f"model.encoder.{name}": x for name, x in weights(where / "tiny-en" / "encoder_model.ort").items()}
        state |= weights(where / "tiny-en" / "decoder_model_merged.ort")
        pieces = pieces_of((where / "tiny-en" / "tokenizer.bin").read_bytes())
        sounds = {name: (heard / name).read_bytes() for name in SOUNDS}
    rotary = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.9}
    # The released one ties its output layer to the embeddings; here each was rounded to 8 bits on its own.
    config = MoonshineConfig(
        rope_parameters=rotary, max_position_embeddings=194, tie_word_embeddings=False, pad_token_id=2
    )
    model = MoonshineForConditionalGeneration(config)
    model.load_state_dict({name: torch.tensor(np.ascontiguousarray(x, np.float32)) for name, x in state.items()})
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(pieces)))
    said = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    for name, content in sounds.items():
        (folder / name).write_bytes(content)


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside its nodes."""
    yield graph
    for i in range(graph.NodesLength()):
        node = graph.Nodes(i)
        for inner in filter(None, (node.Attributes(j).G() for j in range(node.AttributesLength()))):
            yield from _graphs(inner)


def _arrays(graph: Any) -> Iterator[tuple[str, np.ndarray]]:
    for one in (graph.Initializers(i) for i in range(graph.InitializersLength())):
        if one.DataType() in _DTYPES:
            shape = [one.Dims(j) for j in range(one.DimsLength())]
            yield one.Name().decode(), one.RawDataAsNumpy().view(_DTYPES[one.DataType()]).reshape(shape)


def _nodes(graph: Any) -> Iterator[tuple[str, str, list[str]]]:
    """Operator, name and inputs of each."""
    for node in (graph.Nodes(i) for i in range(graph.NodesLength())):
        yield (
            node.OpType().decode(),
            node.Name().decode(),
            [node.Inputs(j).decode() for j in range(node.InputsLength())],
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
