"""One fuzz target for each reader: it makes its corpus, and reads one changed input of it at a time.

A target is a function of a scratch folder. It returns a function of a random generator that writes one changed input
into the folder and reads it; whatever it raises but a `TokexportError` is a finding.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mutate import bytes_of, json_of, text_of

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS), str(TESTS / "runtimes"), str(TESTS / "exporter")]

Case = Callable[[random.Random], None]
TARGETS: dict[str, Callable[[Path], Case]] = {}


def target(make: Callable[[Path], Case]) -> Callable[[Path], Case]:
    TARGETS[make.__name__] = make
    return make


@target
def manifest(folder: Path) -> Case:
    """A changed manifest, opened, and run where it still opens."""
    import toy_bundle
    from tokexport.runtimes.load import load

    path = toy_bundle.write(folder / "toy") / "manifest.json"
    right = json.loads(path.read_bytes())

    def case(rng: random.Random) -> None:
        path.write_bytes(text_of(right, rng))
        session = load(path.parent, threads=1)
        session.generate(np.zeros((4, 4, 3), np.uint8), "a b c", 2)

    return case


@target
def vocabulary(folder: Path) -> Case:
    """A changed vocabulary, and a question in it."""
    import toy_bundle
    from tokexport.runtimes.words import Words

    right = toy_bundle.WORDS.to_json() | {"spellings": {"colour": "a"}}

    def case(rng: random.Random) -> None:
        (folder / "words.json").write_bytes(text_of(right, rng))
        words = Words.load(folder / "words.json")
        words.detokenize(words.prompt(rng.choice(("a b ?", "A?b", "zebra", "\0", "ß" * 1000))))

    return case


@target
def tokenizer(folder: Path) -> Case:
    """A changed tokenizer.json with parts of every kind, and a question in it."""
    import toy_listener
    from tokexport.runtimes.tokenizer_file import TokenizerFile
    from toy_tokenizer import tokenizer_json

    whole = tokenizer_json()
    replace = {"type": "Replace", "pattern": {"Regex": "(a+)+b"}, "content": "aa"}
    parts: dict[str, Any] = {
        "truncation": {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": 2, "pad_id": 0, "pad_type_id": 0,
            "pad_token": "!",
        },
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, {"type": "Prepend", "prepend": "a"}, replace, {"type": "Lowercase"},
            {"type": "Precompiled", "precompiled_charsmap": "AAQAAAAAAAAA"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False},
            {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True},
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "WordPiece", "prefix": "##", "cleanup": True}, replace,
            {"type": "CTC", "pad_token": "!", "word_delimiter_token": "|", "cleanup": True},
        ]},
    }  # fmt: skip
    words = {"[UNK]": 0, "a": 1, "##b": 2}
    models: list[dict[str, Any]] = [
        {"type": "WordPiece", "vocab": words, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
         "max_input_chars_per_word": 100},
        {"type": "Unigram", "unk_id": 0, "vocab": [["[UNK]", 0.0], ["a", -1.0]], "byte_fallback": False},
        {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    ]  # fmt: skip
    # Small ones, so that a change often lies in a part that matters.
    small = [{**whole, "added_tokens": whole["added_tokens"][:1], "model": model} for model in models]
    record = toy_listener.generation().model_copy(update={"vocabulary": 1 << 20})

    def case(rng: random.Random) -> None:
        right = rng.choice((whole, *small))
        some = {name: part for name, part in parts.items() if rng.random() < 0.3}
        (folder / "tokenizer.json").write_bytes(text_of({**right, **some}, rng))
        text = TokenizerFile.load(folder / "tokenizer.json", record)
        text.detokenize(text.prompt(rng.choice((" a small test", "A?b", "a" * 1000, "\0", "ß" * 1000, ""))))
        text.detokenize([rng.randrange(300) for _ in range(9)])

    return case


def _foreign(folder: Path) -> Path:
    from bad_input import plain

    return plain(folder / "m.onnx")


@target
def graph(folder: Path) -> Case:
    """A changed ONNX file, inspected and compressed."""
    import tokexport
    from tokexport.graph_passes.ir_tools.model_io import load_model
    from tokexport.graph_passes.seams.find import describe

    right, path = _foreign(folder).read_bytes(), folder / "m.onnx"

    def case(rng: random.Random) -> None:
        path.write_bytes(bytes_of(right, rng))
        describe(load_model(path))
        tokexport.compress(path, "uniform", keep=3, seam="tensor:features")

    return case


@target
def branches(folder: Path) -> Case:
    """A changed ONNX file with what the plain one lacks: a function, branches, texts, weights beside it."""
    import onnx
    import tokexport
    from onnx import helper
    from tokexport.graph_passes.ir_tools.model_io import load_model
    from tokexport.graph_passes.seams.find import describe

    def value(name: str, shape: tuple[int, ...] | None = (1, 12, 8)) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, 1, shape)

    def outside(name: str, size: int) -> onnx.TensorProto:
        tensor = onnx.TensorProto(name=name, data_type=1, dims=[size, size], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="w.bin")
        tensor.external_data.add(key="length", value=str(4 * size * size))
        return tensor

    (folder / "w.bin").write_bytes(bytes(256))
    body = [helper.make_node("Identity", ["a"], ["i"]), helper.make_node("Erf", ["i"], ["b"])]
    own = helper.make_function("d", "gelu", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    ways = [helper.make_graph([helper.make_node(op, ["x"], ["q"])], op, [], [value("q")]) for op in ("Neg", "Abs")]
    nodes = [
        helper.make_node("Constant", [], ["t"], value_strings=["a", "b"]),
        helper.make_node("Constant", [], ["k"], value=outside("k", 2)),
        helper.make_node("Identity", ["s"], ["u"]),
        helper.make_node("If", ["c"], ["r"], then_branch=ways[0], else_branch=ways[1]),
        helper.make_node("gelu", ["r"], ["p"], domain="d"),
        helper.make_node("Einsum", ["p", "w"], ["features"], equation="bnd,de->bne", name="product"),
        helper.make_node("Shape", ["features"], ["shape"]),
        helper.make_node("Reshape", ["features", "shape"], ["y"]),
    ]
    weights = [outside("w", 8), helper.make_tensor("s", 8, [2], [b"a", b"b"]), helper.make_tensor("c", 9, [], [1])]
    graph = helper.make_graph(nodes, "main", [value("x")], [value("y", shape=None)], initializer=weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[own], producer_name="p")
    right, path = made.SerializeToString(), folder / "m.onnx"

    def case(rng: random.Random) -> None:
        path.write_bytes(bytes_of(right, rng))
        describe(load_model(path))
        tokexport.compress(path, "uniform", keep=3, seam="tensor:features")

    return case


@target
def proof(folder: Path) -> Case:
    """A changed proof in a bundle whose hashes are right."""
    import tokexport
    from tokexport.exporter.proof.verify import verify

    bundle = folder / "b"
    tokexport.export(_foreign(folder), bundle, method="kcenter_merge", keep=3, seam="tensor:features")
    path, manifest = bundle / "proof.npz", json.loads((bundle / "manifest.json").read_bytes())
    right = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    index = json.loads(arrays.pop("index").tobytes())

    def changed(rng: random.Random) -> bytes:
        kind = rng.randrange(3)
        if kind == 0:
            return bytes_of(right, rng)
        stored = dict(arrays)
        if kind == 1:
            name = rng.choice(list(stored))
            stored[name] = rng.choice((stored[name][..., :1], stored[name].astype(np.int8), np.zeros(0), np.float32(3)))
        text = json.dumps(index).encode() if kind == 1 else text_of(index, rng)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, index=np.frombuffer(text, np.uint8), **stored)
        return buffer.getvalue()

    def case(rng: random.Random) -> None:
        content = changed(rng)
        path.write_bytes(content)
        manifest["files"]["proof.npz"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        verify(bundle)

    return case


def _checkpoint(folder: Path, right: Path, names: tuple[str, ...]) -> Case:
    from tokexport.exporter.opening import open_source

    shutil.copytree(right, folder / "c")
    contents = {name: (folder / "c" / name).read_bytes() for name in names if (folder / "c" / name).exists()}

    def case(rng: random.Random) -> None:
        name = rng.choice(list(contents))
        for other, content in contents.items():
            (folder / "c" / other).write_bytes(content)
        changed = text_of(json.loads(contents[name]), rng) if name.endswith(".json") else bytes_of(contents[name], rng)
        (folder / "c" / name).write_bytes(changed)
        open_source(str(folder / "c"), parts="all").language(1)

    return case


def _sharded(folder: Path) -> None:
    """The weights of a checkpoint as a file that an index names."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "a.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "a.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@target
def families(folder: Path) -> Case:
    """A folder of any family, one of whose files that say how it is read is changed."""
    import torch
    from tiny_families import FAMILIES, key
    from tokexport.exporter.opening import open_source
    from tokexport.exporter.sources.checkpoint import Lengths
    from tokexport.exporter.sources.clip import Clip

    torch.set_num_threads(1)
    contents: dict[Path, dict[str, bytes]] = {}
    clips: dict[Path, Clip | None] = {}
    # Here, where no limit counts the seconds of imports.
    for family in FAMILIES:
        made = folder / key(family)
        family.make(made)
        clips[made] = Clip(4) if "--frames" in family.options else None
        _sharded(made)
        contents[made] = {file.name: file.read_bytes() for file in made.glob("*.json")}
    open_source(str(made), parts="all")

    def case(rng: random.Random) -> None:
        made = rng.choice(list(contents))
        name = rng.choice(list(contents[made]))
        for other, content in contents[made].items():
            (made / other).write_bytes(content)
        (made / name).write_bytes(text_of(json.loads(contents[made][name]), rng))
        lengths = Lengths(prompt=96) if clips[made] else None
        source = open_source(str(made), parts="all", clip=clips[made], lengths=lengths)
        source.language(1)
        source.real_inputs(1)

    return case


@target
def llava(folder: Path) -> Case:
    """A LLaVA checkpoint with shards, one of whose files is changed."""
    import torch
    from tiny_checkpoints import llava as make

    right = folder / "right"
    make(right)
    _sharded(right)
    processor = {
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "do_center_crop": True, "do_pad": False,
        "size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}, "rescale_factor": 1 / 255,
    }  # fmt: skip
    (right / "preprocessor_config.json").write_text(json.dumps(processor))
    torch.set_num_threads(1)
    names = ("config.json", "preprocessor_config.json", "model.safetensors.index.json", "a.safetensors")
    names = (*names, "generation_config.json", "tokenizer_config.json")
    return _checkpoint(folder, right, names)


@target
def whisper(folder: Path) -> Case:
    """A Whisper checkpoint with a pickled state, one of whose files is changed."""
    import torch
    from safetensors.torch import load_file
    from tiny_checkpoints import whisper as make

    right = folder / "right"
    make(right)
    torch.save(load_file(right / "model.safetensors"), right / "pytorch_model.bin")
    (right / "model.safetensors").unlink()
    extractor = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "chunk_length": 2}
    (right / "preprocessor_config.json").write_text(json.dumps(extractor))
    settings = ("preprocessor_config.json", "generation_config.json", "tokenizer.json")
    return _checkpoint(folder, right, ("config.json", "pytorch_model.bin", *settings))


def _media(folder: Path, files: dict[str, bytes], read: Callable[[Path], Any]) -> Case:
    def case(rng: random.Random) -> None:
        name = rng.choice(list(files))
        (folder / name).write_bytes(bytes_of(files[name], rng))
        read(folder / name)

    return case


def _picture_record() -> Any:
    from tokexport.runtimes.bundle.manifest import PreprocessRecord

    return PreprocessRecord(size=(16, 16), resample="bicubic", crop="center", mean=(0, 0, 0), std=(1, 1, 1))


@target
def picture(folder: Path) -> Case:
    """Changed pictures in every format that is read."""
    from PIL import Image
    from tokexport.runtimes.media.image import pixel_values

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    files = {}
    for suffix in ("png", "jpg", "webp", "bmp", "gif", "tif", "ppm", "tga", "ico", "jp2"):
        exif = {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}
        noise.save(folder / f"a.{suffix}", **(exif if suffix in ("jpg", "png", "webp") else {}))
        files[f"a.{suffix}"] = (folder / f"a.{suffix}").read_bytes()
    record = _picture_record()
    return _media(folder, files, lambda path: pixel_values(path, record))


@target
def video(folder: Path) -> Case:
    """Changed animated pictures."""
    from PIL import Image
    from tokexport.runtimes.bundle.manifest import VideoRecord
    from tokexport.runtimes.media.video import clip_values

    noise = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), np.uint8)
    first, *others = map(Image.fromarray, noise)
    files = {}
    for suffix in ("gif", "webp", "png"):
        first.save(folder / f"a.{suffix}", save_all=True, append_images=others)
        files[f"a.{suffix}"] = (folder / f"a.{suffix}").read_bytes()
    record = VideoRecord(kind="video", frames=3, frame=_picture_record())
    return _media(folder, files, lambda path: clip_values(path, record))


@target
def film(folder: Path) -> Case:
    """Changed films."""
    import av
    from tokexport.runtimes.bundle.manifest import VideoRecord
    from tokexport.runtimes.media.video import clip_values

    noise = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    files = {}
    for suffix in ("mp4", "mkv", "avi"):
        with av.open(str(folder / f"a.{suffix}"), "w") as made:
            stream = made.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for frame in noise:
                made.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            made.mux(stream.encode())
        files[f"a.{suffix}"] = (folder / f"a.{suffix}").read_bytes()
    record = VideoRecord(kind="video", frames=3, frame=_picture_record())
    return _media(folder, files, lambda path: clip_values(path, record))


@target
def sound(folder: Path) -> Case:
    """Changed sounds in the formats of libsndfile."""
    import soundfile
    from tokexport.runtimes.bundle.manifest import LogMelRecord
    from tokexport.runtimes.media.encoder_input import encoder_input

    tone = np.sin(np.arange(8000) / 9).astype(np.float32)
    files = {}
    for suffix in ("wav", "flac", "ogg", "aiff", "au", "mp3"):
        soundfile.write(folder / f"a.{suffix}", tone, 16000)
        files[f"a.{suffix}"] = (folder / f"a.{suffix}").read_bytes()
    record = LogMelRecord(kind="log_mel", sample_rate=16000, n_fft=400, hop=160, mels=40, frames=100)
    return _media(folder, files, lambda path: encoder_input(path, record, folder))


@target
def transcript(folder: Path) -> Case:
    """Changed sounds, written down piece by piece."""
    import soundfile
    import toy_speech
    from tokexport.runtimes.load import load

    session = load(toy_speech.write(folder / "toy", (30, 10)), threads=1)
    files = {}
    for suffix, subtype, rate in (("wav", "PCM_U8", 100), ("wav", "FLOAT", 100), ("flac", "PCM_24", 8000)):
        soundfile.write(
            folder / f"{rate}{subtype}.{suffix}", toy_speech.said((40, 0.3), (1, 0), (20, 0.4)), rate, subtype
        )
        name = f"{rate}{subtype}.{suffix}"
        files[name] = (folder / name).read_bytes()
    return _media(folder, files, lambda path: session.generate(path, timestamps=True))


@target
def recipe(folder: Path) -> Case:
    """A changed recipe, in TOML of every depth."""
    from tokexport.graph_passes.recipes import load

    source = Path(sys.modules["tokexport.graph_passes.recipes"].__file__ or "").with_name("vscan.toml")
    right = source.read_bytes()

    def case(rng: random.Random) -> None:
        deep = b"x = " + b"[" * 5000
        (folder / "r.toml").write_bytes(deep if rng.random() < 0.02 else bytes_of(right, rng))
        load(folder / "r.toml").made({})

    return case


@target
def seams(folder: Path) -> Case:
    """Changed seams in the metadata of a model that was exported by us."""
    import onnx_ir as ir
    from tokexport.graph_passes.ir_tools.model_io import load_model
    from tokexport.graph_passes.seams.find import describe, find_seams
    from tokexport.graph_passes.seams.seam import METADATA_KEY

    model = load_model(_foreign(folder))
    assert isinstance(model, ir.Model)
    right = [{
        "name": "encoder_output", "tensor": "features", "tokens": 12, "dim": 8, "batch": 1, "prefix": 0,
        "grid": [3, 4], "dtype": "float32", "signals": {"cls_attention": {"kind": "attention", "tensors": ["x"]}},
        "valid": True, "why": "", "found_by": "metadata",
    }]  # fmt: skip

    def case(rng: random.Random) -> None:
        model.metadata_props[METADATA_KEY] = json.dumps(json_of(right, rng))
        describe(model)
        find_seams(model)

    return case
