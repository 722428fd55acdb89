"""`export-to`: what other runtimes run of a bundle answers as our own runtime does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import as_they_call
import numpy as np
import pytest
import tiny_checkpoints
import tokexport
from click.testing import CliRunner
from PIL import Image
from tiny_audio import voxtral
from tiny_checkpoints import gemma3
from tiny_tiles import llava_next
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.other_runtimes import carried, crossing_apart, texts
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.generate import greedy
from tokexport.runtimes.session import Session
from tokexport.runtimes.words import Words

pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

TARGETS = ("transformers-js", "ort-genai")
QUESTION, MOST = "What is in w17 w18", 20
LENGTHS = ["--prompt-length", "24", "--answer-length", str(MOST)]


def made(source: Path, out: Path, *options: str) -> Path:
    result = CliRunner().invoke(main, ["model", str(source), *options, "--no-verify", "-q", "-o", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("other-runtimes")


@pytest.fixture(scope="module")
def llava(folder) -> Path:
    """Nine of 36 tokens, merged."""
    source = tiny_checkpoints.whole_llava(folder / "llava", loud=True)
    return made(source, folder / "b", "--method", "kcenter_merge", "--ratio", "0.75", *LENGTHS)


@pytest.fixture(scope="module")
def shortened(llava, folder) -> Path:
    """All tokens in the first layer, and half of them behind it."""
    asked = ["--method", "kcenter_merge", "--seam", "decoder_layer:0", "--ratio", "0.5"]
    return made(folder / "llava", folder / "shortened", *asked, *LENGTHS)


@pytest.fixture(scope="module")
def half(llava, folder) -> Path:
    """The same in half precision, whose caches hold a bias in two parts."""
    asked = ["--method", "kcenter_merge", "--seam", "decoder_layer:0", "--ratio", "0.5", "--precision", "fp16"]
    return made(folder / "llava", folder / "half", *asked, *LENGTHS)


@pytest.fixture(scope="module")
def whisper(tiny_whisper_folder, folder) -> Path:
    return made(tiny_whisper_folder, folder / "w", "--method", "kcenter_merge", "--ratio", "0.75")


def exported(bundle: Path, target: str, out: Path) -> Path:
    result = CliRunner().invoke(main, ["export-to", str(bundle), "--target", target, "-o", str(out), "--json", "-q"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["target"] == target and said["files"].keys() == {
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()
    }
    return out


def with_places(session: Session, ids: list[int]) -> list[int]:
    """A prompt with a placeholder for each token of the image."""
    record = session.variant.generation
    offset, keep = record.image_span
    return [*ids[:offset], *[record.prompt.image] * keep, *ids[offset:]]


def pixels_of(session: Session, seed: int) -> np.ndarray:
    (shape,) = (given.shape for given in session.variant.graphs["encoder"].inputs.values())
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def transcript(session: Session, features: np.ndarray) -> tuple[list[int], list[int]]:
    """A prompt, and what our runtime writes behind it."""
    speech = session.variant.generation.speech
    prompt = [speech.start, speech.languages["de"], speech.tasks["transcribe"], speech.no_timestamps]
    return prompt, greedy(session.run, session.variant, session.encode(features), prompt, MOST)[0]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["llava", "shortened", pytest.param("half", marks=pytest.mark.slow)])
def test_a_model_that_sees_answers_the_same(name, target, request, tmp_path):
    bundle = request.getfixturevalue(name)
    run = as_they_call.transformers_js_sees if target == "transformers-js" else as_they_call.genai_sees
    out, ours = exported(bundle, target, tmp_path / "out"), tokexport.load(bundle)
    said: list[int] = []
    for seed in range(2):
        ids = [1, 4, *np.random.default_rng(seed).integers(11, 90, 3 + 5 * seed).tolist()]
        pixels = pixels_of(ours, seed)
        wanted = ours.generate(pixels, ids, max_new_tokens=MOST).ids
        assert run(out, with_places(ours, ids), pixels, MOST) == wanted
        said += wanted
    assert len(said) > 10 and len(set(said)) > 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", [voxtral, llava_next, gemma3])
def test_sounds_tiles_and_prompts_that_see_each_other_too(kind, tmp_path):
    kind(tmp_path / "model")
    bundle = made(tmp_path / "model", tmp_path / "b", "--method", "kcenter_merge", "--ratio", "0.75", *LENGTHS)
    ours = tokexport.load(bundle)
    ids, pixels = [1, *np.random.default_rng(0).integers(11, 60, 12).tolist()], pixels_of(ours, 0)
    wanted = ours.generate(pixels, ids, max_new_tokens=MOST).ids
    js, genai = (exported(bundle, target, tmp_path / target) for target in TARGETS)
    assert as_they_call.transformers_js_sees(js, with_places(ours, ids), pixels, MOST) == wanted
    assert as_they_call.genai_sees(genai, with_places(ours, ids), pixels, MOST) == wanted


def hears(whisper: Path, target: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if target == "ort-genai":
        monkeypatch.setattr(crossing_apart, "FRAMES", 200)
    exported(whisper, target, out)


@pytest.mark.parametrize("target", TARGETS)
def test_a_model_that_hears_writes_the_same(whisper, target, tmp_path, monkeypatch):
    out, ours = tmp_path / "out", tokexport.load(whisper)
    hears(whisper, target, out, monkeypatch)
    run = as_they_call.transformers_js_hears if target == "transformers-js" else as_they_call.genai_hears
    said: set[int] = set()
    for seed in range(2):
        features = np.random.default_rng(seed).standard_normal((1, 80, 200)).astype(np.float32)
        prompt, wanted = transcript(ours, features)
        assert run(out, prompt, features, MOST) == wanted
        said |= {*wanted}
    assert len(said) > 5


def test_sizes_reach_the_attention(llava, tmp_path):
    """Without them the answers are others: see the test of the same answers."""
    files = exported(llava, "transformers-js", tmp_path / "out") / "onnx/vision_encoder.onnx"
    ours = tokexport.load(llava)
    pixels = pixels_of(ours, 0)
    encoded = ours.encode(pixels)
    (rows,) = as_they_call.session(files).run(None, {"pixel_values": pixels})
    assert np.allclose(rows[:, :-2], encoded["tokens"][0], atol=1e-5)
    assert rows[:, -2].tolist() == encoded["kept_indices"][0].tolist()
    assert np.allclose(rows[:, -1], np.log(encoded["sizes"][0])) and rows[:, -1].max() > 1


@pytest.mark.parametrize("fault", ["late", "none", "long"])
def test_a_prompt_that_the_graphs_do_not_take_stops_the_runtime(llava, fault, tmp_path):
    out, ours = exported(llava, "transformers-js", tmp_path / "out"), tokexport.load(llava)
    words = [1, 4, 20, 21, 22]
    ids = {
        "late": [30, *with_places(ours, words)],
        "none": words,
        "long": [*with_places(ours, words), *[20] * 20],
    }[fault]
    says = "prompt has more than 24 ids" if fault == "long" else "9 placeholders must stand behind 2 ids"
    with pytest.raises(Exception, match=says):
        as_they_call.transformers_js_sees(out, ids, pixels_of(ours, 0), MOST)


def test_an_answer_ends_where_the_caches_do(llava, tmp_path):
    ours = tokexport.load(llava)
    ids = with_places(ours, [1, 4, *[20] * 22])
    out = exported(llava, "transformers-js", tmp_path / "out")
    config = out / "config.json"
    config.write_text(config.read_text().replace('"eos_token_id": 2', '"eos_token_id": 1000'))
    with pytest.raises(Exception, match="prompt and answer have more than 53 tokens"):
        as_they_call.transformers_js_sees(out, ids, pixels_of(ours, 0), MOST + 5)


def test_the_files_say_how_many_tokens_there_are_and_how_they_are_asked_for(llava, tmp_path):
    import jinja2

    js, genai = (exported(llava, target, tmp_path / target) for target in TARGETS)
    processor, picture = (as_they_call.read_json(js / f"{name}_config.json") for name in ("processor", "preprocessor"))
    side = picture["crop_size"]["height"]
    assert side // processor["patch_size"] * (side // processor["patch_size"]) == 0
    assert processor["num_additional_image_tokens"] == 9
    external = as_they_call.read_json(js / "config.json")["transformers.js_config"]["use_external_data_format"]
    assert external == {name: int((js / f"onnx/{name}.onnx_data").exists()) for name in external}
    ours = tokexport.load(llava)
    record = ours.variant.generation
    for out, places in ((js, 1), (genai, 9)):
        template = as_they_call.read_json(out / "tokenizer_config.json")["chat_template"]
        for content in (QUESTION, [{"type": "image"}, {"type": "text", "text": QUESTION}]):
            said = jinja2.Template(template).render(messages=[{"role": "user", "content": content}])
            assert said == f"{record.prompt.before}{QUESTION}{record.prompt.after}".replace(
                "<image>", "<image>" * places
            )


def test_a_list_of_words_becomes_a_tokenizer():
    from tokenizers import Tokenizer

    words = Words(("<pad>", "<bos>", "<eos>", "what", "colour", "is", "?"), 1, 0, (2,), {"color": "colour"})
    tokenizer = Tokenizer.from_str(json.dumps(texts._of_words(words)))
    assert tokenizer.encode("What color is?").ids == [1, *words.tokenize("What color is?")]
    with pytest.raises(Exception, match="UNK"):
        tokenizer.encode("what horse is?")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"generation": None}, "no language graphs"),
        ({"generation": {"images": 2, "placeholder": 95}}, "places for 2 images"),
        ({"decode": "state_conv_0"}, "carries states"),
        ({"decode": "whole"}, "schema 1"),
        ({"encoder": "text"}, "by the question"),
    ],
)
def test_what_no_runtime_carries_is_refused(llava, change, says):
    bundle = open_bundle(llava)
    variant = bundle.variant()
    graphs = dict(variant.graphs)
    asked: Any = change.get("generation", {})
    record = variant.generation.model_copy(update=asked) if asked is not None else None
    if change.get("decode") == "whole":
        outputs = {name.replace("new_", "present_"): one for name, one in graphs["decode"].outputs.items()}
        graphs["decode"] = graphs["decode"].model_copy(update={"outputs": outputs})
    elif extra := change.get("decode", change.get("encoder")):
        role = "decode" if "decode" in change else "encoder"
        inputs = {**graphs[role].inputs, extra: next(iter(graphs[role].inputs.values()))}
        graphs[role] = graphs[role].model_copy(update={"inputs": inputs})
    changed = variant.model_copy(update={"graphs": graphs, "generation": record})
    for target in TARGETS:
        with pytest.raises(RequestError, match=says):
            carried.check(bundle, changed, target)


def test_what_is_refused_writes_nothing(whisper, refused):
    refused("export-to", whisper, "--target", "ort-genai", "-o", "out", says=("reads 30 s at a time", "2 s"))


def test_biases_need_room_behind_the_tokens(whisper, monkeypatch):
    bundle = open_bundle(whisper)
    monkeypatch.setattr(crossing_apart, "FRAMES", 200)
    monkeypatch.setattr(crossing_apart.Places, "end", 101)
    with pytest.raises(RequestError, match="room for 100 tokens, and 25 with their sizes need 101"):
        carried.check(bundle, bundle.variant(), "ort-genai")


def test_a_bundle_is_not_replaced_by_what_is_made_of_it(llava, refused):
    refused("export-to", llava, "--target", "ort-genai", "-o", llava, says=("delete what it is made of",))


def test_onnxruntime_genai_itself_sees_the_same(llava, tmp_path):
    genai = pytest.importorskip("onnxruntime_genai")
    ours = tokexport.load(llava)
    model = genai.Model(str(exported(llava, "ort-genai", tmp_path / "out")))
    for seed in range(2):
        ids = [1, 4, *np.random.default_rng(seed).integers(11, 90, 5).tolist()]
        pixels, keep = pixels_of(ours, seed), ours.variant.generation.image_span[1]
        given = {"pixel_values": pixels, "num_image_tokens": np.array([keep], np.int64)}
        assert _genai(genai, model, with_places(ours, ids), given, ours) == ours.generate(pixels, ids, MOST).ids


def test_onnxruntime_genai_itself_hears_the_same(folder, tmp_path):
    genai = pytest.importorskip("onnxruntime_genai")
    source = tiny_checkpoints.whisper(folder / "whisper-30s", tokens=1500)
    bundle = made(source, folder / "whisper-30s-b", "--method", "kcenter_merge", "--ratio", "0.75")
    ours, model = tokexport.load(bundle), genai.Model(str(exported(bundle, "ort-genai", tmp_path / "out")))
    features = np.random.default_rng(0).standard_normal((1, 80, 3000)).astype(np.float32)
    prompt, wanted = transcript(ours, features)
    assert _genai(genai, model, prompt, {"audio_features": features}, ours) == wanted


def _genai(genai: Any, model: Any, prompt: list[int], given: dict[str, np.ndarray], ours: Session) -> list[int]:
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + MOST, do_sample=False)
    generator, inputs = genai.Generator(model, params), genai.NamedTensors()
    for name, value in {"input_ids": np.array([prompt], np.int32), **given}.items():
        inputs[name] = value
    generator.set_inputs(inputs)
    answer: list[int] = []
    while not generator.is_done():
        generator.generate_next_token()
        answer.append(int(generator.get_next_tokens()[0]))
    return [word for word in answer if word not in ours.variant.generation.eos]


def transformers_js(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the real one says; skipped where it is not here."""
    library = Path(os.environ.get("TRANSFORMERS_JS", "")) / "node_modules/@huggingface/transformers"
    entry = library / "dist/transformers.node.mjs"
    if not shutil.which("node") or not entry.is_file():
        pytest.skip("no transformers.js: npm install @huggingface/transformers, and name its folder by TRANSFORMERS_JS")
    file = folder / "job.json"
    file.write_text(json.dumps({**job, "most": MOST, "library": entry.as_uri()}))
    script = Path(__file__).with_name("ask_transformers_js.mjs")
    done = subprocess.run(["node", script, file], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_transformers_js_itself_sees_the_same(llava, tmp_path):
    ours, out = tokexport.load(llava), exported(llava, "transformers-js", tmp_path / "out")
    # Of the size that the encoder reads: other sizes are brought to it by another library than ours.
    values = np.random.default_rng(0).integers(0, 255, (84, 84, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "picture.png")
    job = {"kind": "sees", "folder": str(out), "image": str(tmp_path / "picture.png"), "question": QUESTION}
    said, wanted = transformers_js(job, tmp_path), ours.generate(tmp_path / "picture.png", QUESTION, MOST)
    assert [word for word in said["ids"] if word not in ours.variant.generation.eos] == wanted.ids
    assert said["prompt"].count(ours.variant.generation.prompt.image) == 9


def test_transformers_js_itself_hears_the_same(whisper, tmp_path):
    ours, out = tokexport.load(whisper), exported(whisper, "transformers-js", tmp_path / "out")
    features = np.random.default_rng(0).standard_normal((1, 80, 200)).astype(np.float32)
    prompt, wanted = transcript(ours, features)
    given = {"data": features.ravel().tolist(), "shape": list(features.shape)}
    asked = {"language": "de", "task": "transcribe"}
    said = transformers_js({"kind": "hears", "folder": str(out), "input": given, "asked": asked}, tmp_path)
    assert [word for word in said["ids"] if word not in ours.variant.generation.eos] == [*prompt, *wanted]
