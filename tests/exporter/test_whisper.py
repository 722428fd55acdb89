"""A Whisper folder as a whole: what its graphs say, its settings, its sound, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_checkpoints
from click.testing import CliRunner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tokexport.errors import RequestError  # noqa: E402
from tokexport.exporter.cli import main  # noqa: E402
from tokexport.exporter.families.whisper_generation import settings  # noqa: E402
from tokexport.exporter.opening import open_source  # noqa: E402
from tokexport.exporter.sources.checkpoint import Checkpoint  # noqa: E402
from tokexport.runtimes.bundle.manifest import Variant  # noqa: E402
from tokexport.runtimes.choose import Rules  # noqa: E402
from tokexport.runtimes.generate import greedy  # noqa: E402
from tokexport.runtimes.speech import Asked, prompt  # noqa: E402

IDS = tiny_checkpoints.whisper_ids()
NEW = 40


@pytest.fixture(scope="module")
def english_folder(tmp_path_factory):
    return tiny_checkpoints.whisper(tmp_path_factory.mktemp("english") / "tiny-english", multilingual=False)


@pytest.fixture(scope="module")
def whole(tiny_whisper_folder, tmp_path_factory):
    """The bundle of the real command line, with a quarter of the tokens, and what the command printed."""
    out = tmp_path_factory.mktemp("whole") / "w"
    ask = ["model", str(tiny_whisper_folder), "--method", "kcenter_merge", "--ratio", "0.75", "-o", str(out), "--json"]
    result = CliRunner().invoke(main, ask)
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def changed(folder: Path, target: Path, name: str, **fields: object) -> Path:
    """A copy of a folder, with these fields in one of its JSON files; None removes a field."""
    shutil.copytree(folder, target)
    path = target / name
    content = {**(json.loads(path.read_text()) if path.exists() else {}), **fields}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return target


def modules(source):
    """A `Run` of the PyTorch modules of prefill and decode."""
    graphs = {graph.role: graph for graph in source.language(source.config.max_source_positions)}

    def run(role, /, **inputs):
        graph = graphs[role]
        fed = [torch.as_tensor(np.array(inputs[name])) for name in graph.inputs]
        with torch.no_grad():
            return {name: value.numpy() for name, value in zip(graph.outputs, graph.module(*fed))}

    return run


def variant(source) -> Variant:
    return Variant(name="whole", compression=[], graphs={}, generation=source.generation(100))


@pytest.fixture(params=["english", "multilingual"])
def timeless(request, tmp_path, english_folder, tiny_whisper_folder):
    """A folder that never says a time: after one, transformers goes on from there with what it hears again."""
    folder = english_folder if request.param == "english" else tiny_whisper_folder
    barred = [2, 7, *range(IDS["<|startofprev|>"], len(IDS))]
    return changed(folder, tmp_path / request.param, "generation_config.json", suppress_tokens=barred)


def transcribed(folder: Path, features: np.ndarray, **asked: object) -> list[int]:
    """What Whisper's own `generate` of transformers says, without what it begins and ends with."""
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    return model.generate(torch.from_numpy(features), max_new_tokens=NEW, do_sample=False, **asked)[0].tolist()


# --- what it says


@pytest.mark.parametrize(("language", "task"), [("en", "transcribe"), ("de", "translate")])
def test_uncompressed_it_says_what_generate_of_transformers_says(timeless, language, task):
    source = open_source(str(timeless), parts="all")
    several = bool(source.settings.speech.languages)
    run, record = modules(source), variant(source)
    begin = prompt(source.settings.speech, Asked(language, task) if several else Asked())
    asked = {"language": language, "task": task} if several else {}
    distinct = set()
    for x in source.real_inputs(3):
        with torch.no_grad():
            tokens = source.encoder.module(torch.from_numpy(x["input_features"])).numpy()
        said, _, _ = greedy(run, record, {"tokens": tokens}, begin, NEW)
        wanted = transcribed(timeless, x["input_features"], **asked)
        assert said == [i for i in wanted if i not in begin and i != IDS["<|endoftext|>"]]
        distinct.update(said)
    assert len(distinct) >= 8


def test_a_model_of_english_alone_is_asked_for_no_language(english_folder):
    source = open_source(str(english_folder), parts="all")
    assert source.settings.speech.languages == source.settings.speech.tasks == {}
    assert source.proof_prompt() == [IDS["<|startoftranscript|>"], IDS["<|notimestamps|>"]]


def test_with_times_it_says_what_generate_of_transformers_says(tiny_whisper_folder):
    source = open_source(str(tiny_whisper_folder), parts="all")
    record = source.generation(100)
    (x,) = source.real_inputs(1)
    with torch.no_grad():
        tokens = source.encoder.module(torch.from_numpy(x["input_features"])).numpy()
    begin = prompt(source.settings.speech, Asked("en", "transcribe", timestamps=True))
    said, _, _ = greedy(
        modules(source), variant(source), {"tokens": tokens}, begin, NEW, Rules.of(record, timestamps=True)
    )
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tiny_whisper_folder).eval()
    asked = {"language": "en", "task": "transcribe", "return_timestamps": True}
    # Whisper's `generate` cuts off what follows the last pair of times, and goes on from there: the first step counts.
    wanted = model.generate(torch.from_numpy(x["input_features"]), max_new_tokens=NEW, do_sample=False, **asked)[0]
    times = [i for i in said if i >= IDS["<|0.00|>"]]
    assert times and times[0] <= IDS["<|0.00|>"] + 10 and times == sorted(times)
    assert said[: len(wanted)][:3] == [i for i in wanted.tolist() if i not in begin][:3]


def test_compressed_it_is_proved_against_transformers_token_by_token(whole):
    out, data = whole
    (said,) = [check for check in data["proof"]["checks"] if check["part"] == "generation"]
    assert said["ok"] and said["flipped"] == 0 and said["max_abs"] == 0
    count, distinct = int(said["detail"].split()[0]), int(said["detail"].rsplit(", ", 1)[1].split()[0])
    assert count > 40 and distinct > 5
    assert {"head", "compressor", "prefill", "decode"} < {check["part"] for check in data["proof"]["checks"]}
    assert "token by token" in (out / "report.html").read_text()


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_it_is_proved_in_half_precision(tiny_whisper_folder, tmp_path, precision):
    ask = ["model", str(tiny_whisper_folder), "--method", "uniform", "--keep", "60", "--precision", precision, "--json"]
    result = CliRunner().invoke(main, [*ask, "-o", str(tmp_path / "w")])
    assert result.exit_code == 0, result.output
    assert any(check["part"] == "generation" for check in json.loads(result.stdout)["proof"]["checks"])


def test_inside_the_encoder_the_bias_is_in_later_layers_and_in_cross_attention(tiny_whisper_folder, tmp_path):
    recipe = tmp_path / "twice.toml"
    step = '[[steps]]\nmethod = "kcenter_merge"\nratio = "1/2"\nseam = "{}"\n'
    recipe.write_text(f'summary = "half, twice"\n{step.format("encoder_layer:0")}{step.format("encoder_output")}')
    for ask in (["--method", "kcenter_merge", "--keep", "40", "--seam", "encoder_layer:0"], ["--recipe", str(recipe)]):
        out = tmp_path / ask[0].strip("-")
        result = CliRunner().invoke(main, ["model", str(tiny_whisper_folder), *ask, "-o", str(out), "--json"])
        assert result.exit_code == 0, result.output
        data = json.loads(result.stdout)
        behind = {"between", "sequence"} if "--recipe" in ask else {"tail"}
        checks = data["proof"]["checks"]
        assert {"generation", *behind} < {one["part"] for one in checks} and all(one["ok"] for one in checks)
        assert data["compression"][0]["size_bias"]


# --- what the bundle holds


def test_the_weights_of_the_decoder_are_stored_once(whole, tiny_whisper_folder):
    out, _ = whole
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tiny_whisper_folder)
    own = sum(parameter.numel() for parameter in model.model.decoder.parameters()) * 4
    assert (out / "language.onnx.data").stat().st_size < 1.1 * own
    for role in ("prefill", "decode"):
        graph = onnx.load(out / f"{role}.onnx", load_external_data=False).graph
        assert [list(one.dims) for one in graph.initializer].count([len(IDS), 32]) == 1


def test_the_manifest_says_how_it_generates(whole, tiny_whisper_folder):
    out, _ = whole
    manifest = json.loads((out / "manifest.json").read_text())
    (one,) = manifest["variants"]
    assert one["generation"] == {
        "attention": "cross",
        "image_span": [0, 25],
        "tokens_in": 100,
        "prompt_length": 8,
        "kv_capacity": [48, 48],
        "max_new_tokens": 40,
        "vocabulary": len(IDS),
        "bos": IDS["<|endoftext|>"],
        "pad": IDS["<|endoftext|>"],
        "eos": [IDS["<|endoftext|>"]],
        "suppress": [2, 7, IDS["<|startofprev|>"]],
        "begin_suppress": [5, IDS["<|endoftext|>"]],
        "speech": {
            "start": IDS["<|startoftranscript|>"],
            "languages": {code: IDS[f"<|{code}|>"] for code in ("de", "en", "fr")},
            "tasks": {task: IDS[f"<|{task}|>"] for task in ("transcribe", "translate")},
            "no_timestamps": IDS["<|notimestamps|>"],
            "timestamps": IDS["<|0.00|>"],
            "timestamp_seconds": 0.02,
            "latest_start": 10,
        },
    }
    assert manifest["processor"] == {"kind": "tokenizers", "tokenizer": "processor/tokenizer.json"}
    assert (out / "processor/tokenizer.json").read_bytes() == (tiny_whisper_folder / "tokenizer.json").read_bytes()
    decode = one["graphs"]["decode"]
    assert decode["outputs"]["new_key_1"]["shape"] == [1, 2, 1, 16] and "present_key_0" not in decode["outputs"]


def test_the_real_command_line_prints_words(whole):
    from tokexport.exporter.zoo.tiny_asr.clips import clips

    result = CliRunner().invoke(main, ["run", str(whole[0]), "--audio", str(clips()[0].path), "--language", "en"])
    assert result.exit_code == 0, result.output
    assert all(word.startswith("w") for word in result.stdout.split()) and result.stdout.strip()


@pytest.mark.slow
def test_the_narrow_shape_of_large_v3_turbo(tmp_path):
    """128 bands, four decoder layers under more encoder layers, more languages than English."""
    folder = tiny_checkpoints.whisper(tmp_path / "turbo", mels=128, layers=6, decoder_layers=4, heads=4, tokens=60)
    ask = ["model", str(folder), "--method", "uniform", "--ratio", "0.5", "-o", str(tmp_path / "w"), "--json"]
    result = CliRunner().invoke(main, ask)
    assert result.exit_code == 0, result.output
    (one,) = json.loads((tmp_path / "w/manifest.json").read_text())["variants"]
    assert len(one["generation"]["kv_capacity"]) == 4
    assert one["graphs"]["encoder"]["inputs"]["input_features"]["shape"] == [1, 128, 120]


# --- settings


def test_fields_of_an_older_config_json_and_marks_of_the_tokenizer(tiny_whisper_folder, tmp_path):
    said = json.loads((tiny_whisper_folder / "generation_config.json").read_text())
    fields = {name: said[name] for name in ("suppress_tokens", "begin_suppress_tokens")}
    folder = changed(tiny_whisper_folder, tmp_path / "old", "config.json", **fields)
    (folder / "generation_config.json").unlink()
    found = settings(Checkpoint(folder, "old"), 51865, IDS, 0.02)
    new = settings(Checkpoint(tiny_whisper_folder, "new"), 51865, IDS, 0.02)
    assert (found.suppress, found.begin_suppress, found.eos) == (new.suppress, new.begin_suppress, new.eos)
    assert found.speech.languages == new.speech.languages and found.speech.tasks == new.speech.tasks
    assert found.speech.no_timestamps == new.speech.no_timestamps
    assert settings(Checkpoint(folder, "english"), 51864, IDS, 0.02).speech.languages == {}


def test_generation_config_json_comes_before_config_json(tiny_whisper_folder, tmp_path):
    folder = changed(tiny_whisper_folder, tmp_path / "both", "config.json", suppress_tokens=[1], eos_token_id=3)
    found = settings(Checkpoint(folder, "both"), len(IDS), IDS, 0.02)
    assert found.suppress == [2, 7, IDS["<|startofprev|>"]] and found.eos == [IDS["<|endoftext|>"]]


# --- what is refused


def refused(folder: Path, match: str, parts: str = "all") -> RequestError:
    with pytest.raises(RequestError, match=match) as caught:
        open_source(str(folder), parts=parts)
    return caught.value


def test_a_folder_without_tokenizer_is_refused_and_the_printed_cure_works(tiny_whisper_folder, tmp_path):
    folder = tmp_path / "silent"
    shutil.copytree(tiny_whisper_folder, folder)
    (folder / "tokenizer.json").unlink()
    error = refused(folder, "no tokenizer.json")
    assert "--parts encoder" in error.fix and "Copy the file" in error.fix
    assert not open_source(str(folder), parts="encoder").language(1)


def test_a_folder_with_the_files_of_older_tokenizers_is_told_how_to_write_one(tiny_whisper_folder, tmp_path):
    folder = tmp_path / "slow"
    shutil.copytree(tiny_whisper_folder, folder)
    (folder / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_text("{}")
    # Another class splits texts by rules that are in none of its files.
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    assert "save_pretrained" in refused(folder, "no tokenizer.json").fix


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tiny_whisper_folder, tmp_path):
    folder = tmp_path / "more"
    shutil.copytree(tiny_whisper_folder, folder)
    tiny_checkpoints.whisper_tokenizer(folder, {**IDS, "more": len(IDS)})
    refused(folder, f"ids up to {len(IDS)}, and vocab_size of config.json is {len(IDS)}")


def test_a_damaged_tokenizer_is_refused(tiny_whisper_folder, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_whisper_folder, folder)
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes()[:-40])
    refused(folder, "tokenizer.json cannot be read")


def test_settings_of_another_model_are_refused(tiny_whisper_folder, tmp_path):
    folder = changed(tiny_whisper_folder, tmp_path / "other", "generation_config.json", suppress_tokens=[len(IDS)])
    refused(folder, f"names the id {len(IDS)}")
    folder = changed(tiny_whisper_folder, tmp_path / "none", "generation_config.json", eos_token_id=None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    refused(folder, "eos_token_id")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("feature_size", 128, "feature_size 128, and config.json num_mel_bins 80"),
        ("chunk_length", 30, "chunk_length of 30 s, and max_source_positions 100 of config.json is 2 s"),
        ("sampling_rate", 8000, "chunk_length of 2 s|sampling_rate 8000"),
        ("feature_extractor_type", "Wav2Vec2FeatureExtractor", "feature_extractor_type Wav2Vec2"),
        ("padding_value", 1.0, "padding_value 1.0"),
        ("dither", 0.5, "dither 0.5"),
        ("n_fft", 1, "n_fft"),
    ],
)
def test_a_feature_extractor_of_another_model_is_refused(tiny_whisper_folder, tmp_path, field, value, match):
    right = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000}
    right |= {"hop_length": 160, "chunk_length": 2, "n_fft": 400, "padding_value": 0.0, "dither": 0.0}
    folder = changed(tiny_whisper_folder, tmp_path / "right", "preprocessor_config.json", **right)
    assert open_source(str(folder)).preprocess == open_source(str(tiny_whisper_folder)).preprocess
    folder = changed(folder, tmp_path / "wrong", "preprocessor_config.json", **{field: value})
    refused(folder, match, parts="encoder")


def test_the_settings_of_the_extractor_reach_the_record(tiny_whisper_folder, tmp_path):
    fields = {"n_fft": 512, "hop_length": 80, "chunk_length": 1, "feature_size": 80}
    folder = changed(tiny_whisper_folder, tmp_path / "own", "preprocessor_config.json", **fields)
    record = open_source(str(folder)).preprocess
    assert (record.n_fft, record.hop, record.samples) == (512, 80, 16000)


def test_a_model_without_head_gives_its_encoder_and_says_so(tmp_path):
    folder = tiny_checkpoints.whisper(tmp_path / "headless", tokens=20, headless=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["WhisperModel", "Another"]}))
    ask = ["model", str(folder), "--method", "uniform", "--ratio", "0.5", "-o", str(tmp_path / "w"), "--json"]
    result = CliRunner().invoke(main, ask)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert any("no output layer" in note for note in data["notes"])
    assert set(json.loads((tmp_path / "w/manifest.json").read_text())["variants"][0]["graphs"]) == {"encoder"}


def test_a_model_without_room_for_a_transcript_is_refused(tmp_path):
    folder = tiny_checkpoints.whisper(tmp_path / "short", tokens=20, positions=8)
    refused(folder, "max_target_positions 8 leaves no room")
