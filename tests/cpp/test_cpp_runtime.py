"""The C++ runtime against the Python one on ONNX Runtime, its library compiled with AddressSanitizer and UBSan."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tokexport
import toy_bundle
from cpp_build import ROOT, Calls, arrays, build, outcome, run
from PIL import Image
from tokexport.errors import BundleError, GraphError, MissingError, RequestError
from tokexport.runtimes.bundle.manifest import LogMelRecord, Manifest, Preprocess, PreprocessRecord, VideoRecord
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.media import image as preprocess
from tokexport.runtimes.media import log_mel
from tokexport.runtimes.media.audio import read_sound
from tokexport.runtimes.words import Words

CLIPS = sorted((ROOT / "exporter/zoo/tiny_asr/clips").glob("*.wav"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """tiny-vlm merged in fp32 and fp16, and selecting by the question; tiny-asr, which reads by cross-attention."""
    pytest.importorskip("torch")
    wanted = {
        "apet": ("tiny-vlm", "apet", "fp32"),
        "kcenter_merge-fp16": ("tiny-vlm", "kcenter_merge", "fp16"),
        "lftr_text": ("tiny-vlm", "lftr_text", "fp32"),
        "listening": ("tiny-asr", "kcenter_merge", "fp32"),
    }
    folder = tmp_path_factory.mktemp("bundles")
    for name, (source, method, precision) in wanted.items():
        tokexport.export(source, folder / name, method=method, ratio="0.85", precision=precision, verify=False)
    return {name: folder / name for name in wanted}


@pytest.fixture
def copy(bundles: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles["apet"], tmp_path / "copy"))


def scenes(count: int) -> list[tuple[np.ndarray, str]]:
    from tokexport.exporter.zoo.tiny_vlm.questions import questions
    from tokexport.exporter.zoo.tiny_vlm.scenes import scene

    rng = np.random.default_rng(11)
    drawn = [scene(rng) for _ in range(count)]
    return [(one.image, questions(one, rng, 1)[0].text) for one in drawn]


def manifest(record: Preprocess, bundle: Path) -> str:
    known = open_bundle(bundle).manifest
    return Manifest.model_validate(known.model_dump(by_alias=True) | {"preprocess": record}).to_json()


def test_ctest(tests: Path) -> None:
    run("ctest", "--test-dir", tests, "--output-on-failure")


@pytest.mark.parametrize("name", ["apet", "kcenter_merge-fp16", "lftr_text"])
def test_pictures_are_answered_as_in_python(cpp: Calls, bundles: dict[str, Path], name: str) -> None:
    session = tokexport.load(bundles[name], threads=1)
    for pixels, question in scenes(8):
        asked = {"prompt": question} if session.reads_text else {}
        expected = session.encode(pixels, **asked)
        found = arrays(cpp.image("encode", pixels, bundle=bundles[name], keep=True, **asked))
        for output in ("kept_indices", "assignment", "sizes", "tokens"):
            assert found[output].dtype == expected[output].dtype
            np.testing.assert_array_equal(found[output], expected[output])
        answer = cpp.image("generate", pixels, bundle=bundles[name], prompt=question, keep=True)
        assert answer == session.generate(pixels, question).to_json()
        assert answer["ids"]


def test_sounds_are_written_down_as_in_python(cpp: Calls, bundles: dict[str, Path]) -> None:
    session = tokexport.load(bundles["listening"], threads=1)
    for clip in CLIPS:
        samples = read_sound(clip, 16000)
        answer = cpp.sound("generate", samples, bundle=bundles["listening"], keep=True)
        assert answer == session.generate(samples).to_json()
        assert len(answer["ids"]) > 2


def test_states_are_replaced_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    path = toy_bundle.write(tmp_path / "hybrid", schema="2.2", **toy_bundle.STATEFUL)
    session, pixels = tokexport.load(path, threads=1), np.full((5, 9, 3), 200, np.uint8)
    for prompt in ("b a", "a", "a b c d"):
        answer = cpp.image("generate", pixels, bundle=path, prompt=prompt, keep=True)
        assert answer == session.generate(pixels, prompt).to_json() and len(answer["ids"]) > 1


def test_max_new_tokens(cpp: Calls, bundles: dict[str, Path]) -> None:
    ask = {"bundle": bundles["listening"], "samples": read_sound(CLIPS[0], 16000)}
    assert len(cpp.sound("generate", **ask, max_new_tokens=2)["ids"]) == 2
    with pytest.raises(RequestError, match=r"outside 1\.\.8"):
        cpp.sound("generate", **ask, max_new_tokens=9)


@pytest.mark.parametrize("crop", ["none", "center", "pad", "shortest"])
@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resizing_agrees_with_pillow(cpp: Calls, bundles: dict[str, Path], resample: str, crop: str) -> None:
    rng = np.random.default_rng(7)
    plain = {"resample": resample, "crop": crop, "mean": (9, 101, 201), "std": (1, 1, 1), "rescale": 1.0}
    for trial in range(25):
        # From one pixel to far more than the target; every fifth has the target's own width or height.
        height, width, rows, columns = (int(2 ** rng.uniform(0, 7.5)) for _ in range(4))
        width, height = (columns if trial % 5 == 0 else width), (rows if trial % 5 == 1 else height)
        least = {"crop": "center", "shortest": max(rows, columns) + trial % 3} if crop == "shortest" else {}
        record = PreprocessRecord.model_validate({"size": (rows, columns), **plain, **least})
        pixels = rng.integers(0, 256, (height, width, 4 if trial % 2 else 3), np.uint8)
        result = cpp.image("preprocess", pixels, manifest=manifest(record, bundles["apet"]))
        expected = preprocess.pixel_values(Image.fromarray(pixels[..., :3]), record)
        np.testing.assert_array_equal(arrays(result)["found"], expected, f"{width} x {height} to {columns} x {rows}")


def test_tiles_agree_with_pillow(cpp: Calls, bundles: dict[str, Path]) -> None:
    rng = np.random.default_rng(3)
    for rows, columns, fitted in ((2, 2, (32, 24)), (1, 3, (15, 36)), (3, 1, (47, 5))):
        plain = {"resample": "bicubic", "mean": (9, 101, 201), "std": (1, 1, 1), "rescale": 1.0}
        tiles = {"grid": (rows, columns), "fitted": fitted}
        record = PreprocessRecord.model_validate({"size": (16, 12), **plain, "tiles": tiles})
        pixels = rng.integers(0, 256, (50, 70, 3), np.uint8)
        found = arrays(cpp.image("preprocess", pixels, manifest=manifest(record, bundles["apet"])))["found"]
        np.testing.assert_array_equal(found, preprocess.pixel_values(Image.fromarray(pixels), record))


@pytest.mark.parametrize(
    ("tiles", "why"),
    [
        ({"grid": [2, 2], "fitted": [33, 24]}, "larger than all tiles together"),
        ({"grid": [2], "fitted": [8, 8]}, "no number of rows and columns"),
        ({"grid": [64, 65], "fitted": [8, 8]}, "65 is more than 64"),
        ({"grid": [2, 2]}, "'fitted' is missing"),
    ],
)
def test_tiles_that_cannot_be_are_refused(cpp: Calls, bundles: dict[str, Path], tiles: Any, why: str) -> None:
    plain = PreprocessRecord(size=(16, 12), resample="nearest", mean=(0, 0, 0), std=(1, 1, 1))
    data = json.loads(manifest(plain, bundles["apet"]))
    data["preprocess"]["tiles"] = tiles
    with pytest.raises(BundleError, match=why):
        cpp.image("preprocess", np.zeros((16, 16, 3), np.uint8), manifest=json.dumps(data))


def test_scaling_agrees_to_the_last_bit(cpp: Calls, bundles: dict[str, Path]) -> None:
    record = PreprocessRecord(size=(16, 16), resample="nearest", mean=(0.48, 0.45, 0.4), std=(0.26, 0.27, 0.28))
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    found = arrays(cpp.image("preprocess", pixels, manifest=manifest(record, bundles["apet"])))["found"]
    np.testing.assert_array_equal(found, preprocess.pixel_values(Image.fromarray(pixels), record))


def test_a_bundle_that_takes_videos_opens_and_says_what_to_pass(cpp: Calls, bundles: dict[str, Path]) -> None:
    frame = PreprocessRecord(size=(16, 12), resample="nearest", mean=(0, 0, 0), std=(1, 1, 1))
    record = VideoRecord(kind="video", frames=8, frame=frame)
    with pytest.raises(RequestError, match=r"takes a video.*\[1, 8, 3, 16, 12\]"):
        cpp.image("preprocess", np.zeros((16, 16, 3), np.uint8), manifest=manifest(record, bundles["apet"]))


@pytest.mark.parametrize(
    ("n_fft", "mels", "more"),
    [
        (400, 80, {}),
        (512, 128, {}),
        (401, 20, {}),
        (74, 5, {}),
        (512, 80, {"window": 400, "scale": "htk"}),
        (401, 20, {"window": 300}),
    ],
)
def test_log_mel_agrees_with_numpy(
    cpp: Calls, bundles: dict[str, Path], n_fft: int, mels: int, more: dict[str, Any]
) -> None:
    record = LogMelRecord(kind="log_mel", sample_rate=16000, n_fft=n_fft, hop=160, mels=mels, frames=40, **more)
    rng = np.random.default_rng(3)
    sounds = [rng.normal(0, 0.1, length).astype(np.float32) for length in (1, 900, 6400)]
    for sound in [*sounds, read_sound(CLIPS[1], 16000)[:6400], np.zeros(500, np.float32)]:
        found = arrays(cpp.sound("preprocess", sound, manifest=manifest(record, bundles["apet"])))["found"]
        # numpy transforms in float32, the library in float64: they part where the spectrum is at its floor.
        np.testing.assert_allclose(found, log_mel.input_features(sound, record), atol=2e-3)


def test_words_become_the_same_ids(cpp: Calls, bundles: dict[str, Path]) -> None:
    opened = open_bundle(bundles["apet"])
    path = opened.file(str(opened.manifest.processor.vocabulary))
    words = Words.load(path)
    rng = np.random.default_rng(2)
    pieces = [*words.words, "?", "COLOUR", "Is", "\u00a0", "\u2003", "\t", "é", "É", "??", "…", "ß", ""]
    for _ in range(300):
        text = rng.choice(["", " ", "  "]).join(rng.choice(pieces, rng.integers(0, 4)))
        found = outcome(cpp, "tokenize", vocabulary=path, text=text)
        assert found == outcome(words.tokenize, text), text


def test_the_tool_and_the_example(installed: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    example = build("example", ROOT / "examples/cpp", f"-DCMAKE_PREFIX_PATH={installed}") / "ask"
    assert len((ROOT / "examples/cpp/ask.cpp").read_text().splitlines()) < 60
    tool, session = installed / "bin/tokexport-run", tokexport.load(bundles["apet"])
    for trial, (pixels, question) in enumerate(scenes(3)):
        # Alpha is dropped, not blended.
        alpha = np.full((*pixels.shape[:2], 1), 40, np.uint8)
        picture = tmp_path / f"{trial}.png"
        Image.fromarray(np.concatenate([pixels, alpha], 2) if trial else pixels).save(picture)
        expected = session.generate(picture, question)
        asked = run(tool, bundles["apet"], "--check", "--json", "--image", picture, "--prompt", question)
        assert json.loads(asked.stdout) == expected.to_json()
        assert run(example, bundles["apet"], picture, question).stdout.splitlines()[0] == expected.text
    heard = run(tool, bundles["listening"], "--audio", CLIPS[0]).stdout.strip()
    assert heard == tokexport.load(bundles["listening"]).generate(CLIPS[0]).text


def test_the_tool_refuses_in_one_line(installed: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    tool, clip = installed / "bin/tokexport-run", CLIPS[0]
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    whole = clip.read_bytes()
    (tmp_path / "half.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(tmp_path / "odd.wav", np.stack([read_sound(clip, 16000), -read_sound(clip, 16000)], 1), 16000)
    refused = {
        (bundles["listening"], "--audio", tmp_path / "half.wav"): (2, "is cut short"),
        (bundles["listening"], "--audio", tmp_path / "odd.wav"): (2, "cancel each other"),
        (tmp_path / "nowhere", "--audio", clip): (2, "does not exist"),
        (bundles["apet"], "--image", tmp_path / "cut.png"): (2, "cannot be read as a PNG"),
        (bundles["listening"], "--audio", tmp_path / "cut.png"): (2, "cannot be read as sound"),
        (bundles["apet"], "--audio", clip): (2, "a sound is not an image"),
        (bundles["listening"], "--audio", clip, "--prompt", "thre"): (2, "Did you mean three?"),
        (bundles["listening"], "--audio", clip, "--runtime", "tensorrt"): (3, "built without tensorrt"),
    }
    for arguments, (code, words) in refused.items():
        done = run(tool, *arguments, code=code)
        assert words in done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_every_damaged_file_is_a_typed_error(cpp: Calls, copy: Path) -> None:
    (pixels, question), *_ = scenes(1)
    rng = np.random.default_rng(5)
    for name in json.loads((copy / "manifest.json").read_text())["files"]:
        path = copy / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(BundleError, match=f"{name} has {len(whole) - 1} bytes, not {len(whole)}"):
            cpp("open", bundle=copy)
        for _ in range(2):
            broken = bytearray(whole)
            at = int(rng.integers(0, len(whole)))
            broken[at : at + 16] = rng.bytes(len(broken[at : at + 16]))
            path.write_bytes(broken)
            with pytest.raises(BundleError, match=f"the content of {name} has changed"):
                cpp("open", bundle=copy, check=True)
            # Unchecked it may answer wrongly; what it may not do is die, which Calls would see.
            outcome(cpp.image, "generate", pixels, bundle=copy, prompt=question)
        path.write_bytes(whole)


# Carried along for people and for verify; running a bundle needs none of it.
UNREAD = {"source", "parity", "versions", "params", "grid", "prefix", "device", "llm_weights"}


def test_what_python_refuses_in_a_manifest_cpp_refuses(cpp: Calls, copy: Path) -> None:
    file = copy / "manifest.json"
    whole = json.loads(file.read_text())
    places = [place for place in leaves(whole) if not UNREAD & set(place) and "language.onnx.data" not in place]
    refused = 0
    for place in places:
        for changed in (changes(whole, place, value) for value in ({}, None, -5, "no", ...)):
            file.write_text(json.dumps(changed))
            python = outcome(open_bundle, copy)
            found = outcome(cpp, "open", bundle=copy)
            if python is BundleError:
                assert found is BundleError, place
                refused += 1
    assert refused > len(places)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values, those of one graph's later tensors left out: they are read by the same lines."""
    if isinstance(value, dict):
        items = list(value.items())[: 2 if place[-1:] in (("inputs",), ("outputs",)) else None]
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        items = []
    return [place, *(inner for key, item in items for inner in leaves(item, (*place, key)))][not place :]


def changes(whole: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy in which another value stands at that place; ... takes it away."""
    changed = json.loads(json.dumps(whole))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed


def test_a_manifest_that_is_not_that_of_its_graphs(cpp: Calls, copy: Path) -> None:
    file, ((pixels, question), *_) = copy / "manifest.json", scenes(1)
    whole = json.loads(file.read_text())
    graphs = ("variants", 0, "graphs")
    cases = [
        ((*graphs, "encoder", "inputs", "pixel_values", "name"), "pixels", BundleError, "no tensor 'pixels'"),
        ((*graphs, "decode", "outputs", "logits", "name"), "more", BundleError, "no tensor 'more'"),
        ((*graphs, "encoder", "outputs", "sizes", "shape"), [1, 20], GraphError, "manifest says float32"),
        ((*graphs, "prefill", "inputs", "last_index", "dtype"), "int32", RequestError, "last_index"),
        ((*graphs, "embed", "inputs", "input_ids", "shape"), [1, -1], GraphError, None),
        (("variants", 0, "generation", "prompt_length"), 15, RequestError, "input_ids"),
        (("variants", 0, "generation", "image_span"), [1, 22], GraphError, "image_span keeps 22"),
        (("preprocess", "size"), [96, 97], BundleError, "preprocess makes"),
        ((*graphs, "encoder", "forms", "portable"), "encoder.plugin.onnx", GraphError, "cannot load it: .*Tokexport"),
    ]
    for place, value, kind, words in cases:
        file.write_text(json.dumps(changes(whole, place, value)))
        if words is None:
            cpp.image("generate", pixels, bundle=copy, prompt=question)
            continue
        with pytest.raises(kind, match=words):
            cpp.image("generate", pixels, bundle=copy, prompt=question)


def test_a_runtime_that_cannot(cpp: Calls, bundles: dict[str, Path]) -> None:
    (pixels, _), *_ = scenes(1)
    with pytest.raises(RequestError, match="cannot run the plugin form"):
        cpp.image("encode", pixels, bundle=bundles["apet"], form="plugin")
    with pytest.raises(RequestError, match="has no inlined form"):
        cpp.image("encode", pixels, bundle=bundles["apet"], form="inlined")
    with pytest.raises(MissingError, match="no provider Nobody"):
        cpp.image("encode", pixels, bundle=bundles["apet"], providers=["Nobody"])


@pytest.mark.parametrize("source", ["cuda", "tensorrt_graph", "tensorrt_backend"])
def test_the_tensorrt_backend_compiles(source: str) -> None:
    folders = [os.environ.get("TENSORRT_INCLUDE_DIR", "/usr/include/x86_64-linux-gnu"), cuda_headers()]
    for folder, header in zip(folders, ("NvInferRuntime.h", "cuda_runtime_api.h")):
        if not (Path(folder) / header).is_file():
            pytest.skip(f"TensorRT backend of the C++ runtime: there is no {header} here")
    runtime = ROOT / "runtimes/cpp"
    includes = (f"-I{runtime}/include", f"-I{runtime}/src", *(f"-isystem{folder}" for folder in folders))
    flags = ("-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations")
    run("g++", *flags, *includes, runtime / f"src/{source}.cpp")


def cuda_headers() -> Path:
    return Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"


def test_one_version(installed: Path) -> None:
    (version,) = installed.glob("lib*/**/tokexportConfigVersion.cmake")
    assert f'set(PACKAGE_VERSION "{tokexport.__version__}")' in version.read_text()
