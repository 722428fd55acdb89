"""Speech through the C++ runtime as in Python: a recogniser made by hand, what sounds become, sounds that cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import toy_speech
from cpp_build import ROOT, Calls, arrays, outcome, run
from tokexport.errors import BundleError, RequestError
from tokexport.exporter.families.spoken import spoken
from tokexport.exporter.pipeline import export
from tokexport.runtimes.bundle.manifest import LogMelRecord, Manifest, Preprocess, WaveformRecord
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.choose import Rules, TimeRules
from tokexport.runtimes.load import load
from tokexport.runtimes.media import log_mel, waveform
from tokexport.runtimes.media.audio import read_sound
from toy_speech import EN, NO_TIMES, RATE, START, TRANSCRIBE, TRANSLATE, said

CLIPS = sorted((ROOT / "exporter/zoo/tiny_asr/clips").glob("*.wav"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_speech.write(tmp_path_factory.mktemp("speech") / "toy", (30, 10, 15))


SOUNDS = {
    "short": said((5, 0.3)),
    "window": said((9.5, 0.6)),
    "exact": said((30, 0.4)),
    "seven": said((25, 0.7), (1, 0), (5, 0.4)),
    "long": said((24, 0.3), (1, 0), (25, 0.4), (1, 0), (20, 0.8), (1, 0), (8, 0.2)),
    "without end": said((5, 0.9)),
    "silent": said((40, 0.0)),
    "often silent": said(*[(20, 0.0), (20, 0.5)] * 7),
    "one sample": said((0.01, 0.3)),
}
ASKED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "english": {"language": "EN"},
    "translated": {"language": "de", "task": "translate"},
    "times": {"timestamps": True},
    "begun": {"language": "en", "prompt": "one two"},
    "ids": {"prompt": [START, EN, TRANSLATE]},
    "limit": {"max_new_tokens": 1},
}


def generate(cpp: Calls, bundle: Path, sound: np.ndarray, asked: dict[str, Any], **more: Any) -> Any:
    ids = {"prompt_ids": asked["prompt"]} if isinstance(asked.get("prompt"), list) else {}
    words = {key: value for key, value in asked.items() if key != "prompt" or not ids}
    return cpp.sound("generate", sound, RATE, bundle=bundle, keep=True, **words, **ids, **more)


@pytest.mark.parametrize("asked", ASKED)
def test_a_sound_is_written_down_as_in_python(cpp: Calls, toy: Path, asked: str) -> None:
    session = load(toy, threads=1)
    for name, sound in SOUNDS.items():
        assert generate(cpp, toy, sound, ASKED[asked]) == session.generate(sound, **ASKED[asked]).to_json(), name


@pytest.mark.parametrize("variant", ["toy-10s", "toy-30s"])
def test_a_named_window_is_the_only_one(cpp: Calls, toy: Path, variant: str) -> None:
    session = load(toy, threads=1, variant=variant)
    for sound in (SOUNDS["short"], SOUNDS["long"]):
        found = cpp.sound("generate", sound, RATE, bundle=toy, variant=variant)
        assert found == session.generate(sound).to_json()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"language": "german"}, r"lacks the language 'german'.*Known languages, by code: de, en"),
        ({"language": "e"}, r"lacks the language 'e'"),
        ({"task": "translat"}, r"lacks the task 'translat'.*Did you mean translate"),
        ({"language": "en", "prompt": [START]}, "ids are a whole prompt, so language has no use"),
        ({"timestamps": True, "prompt": "one"}, "begins with given words has no times"),
        ({"prompt": "eleven"}, "does not know the word 'eleven'"),
        ({"prompt": [START, 200]}, "prompt id 200 is outside the vocabulary"),
        ({"prompt": [START] * 9}, "at most 8"),
        ({"max_new_tokens": 7}, r"max_new_tokens 7 is outside 1\.\.6"),
    ],
)
def test_what_the_model_lacks_is_refused_by_name(cpp: Calls, toy: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        generate(cpp, toy, SOUNDS["short"], asked)
    with pytest.raises(RequestError):
        load(toy, threads=1).generate(SOUNDS["short"], **asked)


@pytest.mark.parametrize(("change", "asked", "message"), toy_speech.LACKING)
def test_a_model_of_one_language_or_without_times_says_so(
    cpp: Calls, tmp_path: Path, change: dict[str, Any] | None, asked: dict[str, Any], message: str
) -> None:
    speech = None if change is None else toy_speech.SPEECH.model_copy(update=change)
    path = toy_speech.write(tmp_path / "b", speech=speech)
    with pytest.raises(RequestError, match=message):
        generate(cpp, path, SOUNDS["short"], asked)
    assert generate(cpp, path, SOUNDS["short"], {}) == load(path, threads=1).generate(SOUNDS["short"]).to_json()


def test_the_rules_of_choosing_are_those_of_python(cpp: Calls) -> None:
    rng = np.random.default_rng(9)
    size, eos, silent, first = 20, 6, 9, 10
    for trial in range(600):
        said = rng.integers(0, size, rng.integers(0, 5)).tolist()
        latest = None if trial % 3 else int(rng.integers(0, 5))
        scores = (rng.standard_normal(size) * rng.choice([0.1, 1, 5])).astype(np.float32)
        scores[rng.random(size) < 0.1] = -np.inf
        lists = {key: rng.integers(0, size, rng.integers(0, 4)).tolist() for key in ("suppress", "begin_suppress")}
        lists["only"] = [] if trial % 4 else rng.integers(0, size, 3).tolist()
        times = TimeRules(first, silent, eos, latest) if trial % 2 else None
        rules = Rules(times=times, **{key: tuple(ids) for key, ids in lists.items()})
        asked = {} if times is None else {"first": first, "no_timestamps": silent, "eos": eos}
        asked |= {} if latest is None else {"latest_start": latest}
        given = [float(score) if np.isfinite(score) else None for score in scores]
        found = cpp("choose", scores=given, said=said, **lists, **asked)
        assert found == np.flatnonzero(np.isfinite(rules.apply(scores[None], [said])[0])).tolist(), trial


@pytest.fixture
def spelled(toy: Path, tmp_path: Path) -> Path:
    """The toy with a tokenizer.json in place of its words: the same ids, and bytes of GPT-2."""
    tokenizers = pytest.importorskip("tokenizers")
    path = Path(shutil.copytree(toy, tmp_path / "spelled"))
    words = {f"Ġ{word}": i for i, word in enumerate(toy_speech.SPOKEN)}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    library.decoder = tokenizers.decoders.ByteLevel()
    library.add_special_tokens(list(toy_speech.WORDS.words[10:17]))
    library.add_tokens(list(toy_speech.WORDS.words[17:]))
    text = library.to_str()
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "processor/words.json").unlink()
    (path / "processor/tokenizer.json").write_text(text)
    del manifest["files"]["processor/words.json"]
    manifest["files"]["processor/tokenizer.json"] = {"size": len(text.encode()), "sha256": "0" * 64}
    manifest["processor"] = {"kind": "tokenizers", "tokenizer": "processor/tokenizer.json"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_ids_read_by_a_tokenizer_file(cpp: Calls, spelled: Path) -> None:
    session = load(spelled, threads=1)
    for asked in ({}, {"timestamps": True}, {"prompt": [START, EN, TRANSCRIBE, NO_TIMES]}):
        for name, sound in SOUNDS.items():
            found = generate(cpp, spelled, sound, asked)
            assert found == session.generate(sound, **asked).to_json(), name
    assert generate(cpp, spelled, SOUNDS["long"], {})["text"] == "three four eight"


def test_words_for_a_tokenizer_file_are_refused_with_the_reason(cpp: Calls, spelled: Path) -> None:
    with pytest.raises(RequestError, match=r"turns no words into ids.*as ids"):
        generate(cpp, spelled, SOUNDS["short"], {"language": "en", "prompt": "one"})


def test_a_tokenizer_that_is_not_the_models_is_refused(cpp: Calls, spelled: Path) -> None:
    file = spelled / "manifest.json"
    whole = json.loads(file.read_text())
    path = spelled / "processor/tokenizer.json"
    text = path.read_text()
    longer = json.loads(text)
    longer["added_tokens"].append({"id": toy_speech.V, "content": "more", "special": False})
    for content, kind, message in (
        (json.dumps(longer), BundleError, f"has an id {toy_speech.V}, and the model a vocabulary of {toy_speech.V}"),
        (text.replace('"Ġthree":3', '"Ġthree":200').replace('"ByteLevel"', '"CTC"'), BundleError, "cannot be 'CTC'"),
        (text[:-1], BundleError, "the tokenizer cannot be read"),
    ):
        path.write_text(content)
        whole["files"]["processor/tokenizer.json"]["size"] = len(content.encode())
        file.write_text(json.dumps(whole))
        with pytest.raises(kind, match=message):
            cpp.sound("generate", SOUNDS["short"], RATE, bundle=spelled)


def manifest(record: Preprocess, bundle: Path) -> str:
    known = open_bundle(bundle).manifest
    return Manifest.model_validate(known.model_dump(by_alias=True) | {"preprocess": record}).to_json()


@pytest.mark.parametrize("mels", [80, 128])
def test_log_mel_is_that_of_transformers(cpp: Calls, toy: Path, mels: int) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels, chunk_length=3)
    record = LogMelRecord(kind="log_mel", sample_rate=16000, n_fft=400, hop=160, mels=mels, frames=300)
    rng = np.random.default_rng(3)
    tone = np.sin(2 * np.pi * 440 * np.arange(40000) / 16000) / 2
    sounds = [rng.normal(0, 0.1, 48000), tone, np.zeros(500), np.ones(1), read_sound(CLIPS[0], 16000)]
    for sound in (one.astype(np.float32) for one in sounds):
        found = arrays(cpp.sound("preprocess", sound, manifest=manifest(record, toy)))["found"]
        theirs = extractor(sound, sampling_rate=16000, return_tensors="np")["input_features"]
        np.testing.assert_allclose(found, theirs, atol=1e-4)
        np.testing.assert_allclose(found, log_mel.input_features(sound, record), atol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_waveforms_are_those_of_transformers(cpp: Calls, toy: Path, normalize: bool) -> None:
    transformers = pytest.importorskip("transformers")
    record = WaveformRecord(kind="waveform", sample_rate=16000, samples=4000, normalize=normalize)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    rng = np.random.default_rng(4)
    for sound in (rng.normal(0.2, 0.1, length).astype(np.float32) for length in (1, 900, 4000)):
        found = arrays(cpp.sound("preprocess", sound, manifest=manifest(record, toy)))["found"]
        theirs = extractor(sound, sampling_rate=16000, padding="max_length", max_length=4000, return_tensors="np")
        np.testing.assert_allclose(found, theirs["input_values"], atol=2e-5)
        np.testing.assert_allclose(found, waveform.input_values(sound, record), atol=2e-5)


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        (np.zeros(0), RATE, "the sound is empty"),
        (np.array([0, np.nan]), RATE, "not finite"),
        (np.array([0, np.inf]), RATE, "not finite"),
        (np.array([0, -32768.0]), RATE, r"reaches 32768, and full scale is 1.*Divide 16-bit"),
        (np.zeros(100), 44100, r"44100 samples a second, and the encoder takes 100.*sox IN.wav -r 100 OUT.wav"),
        (np.zeros(12 * 3600 * RATE + 1), RATE, "at most 43200 s"),
    ],
)
def test_a_sound_that_cannot_be(cpp: Calls, toy: Path, sound: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        cpp.sound("generate", sound, rate, bundle=toy, keep=True)


def test_every_kind_of_file(installed: Path, toy: Path, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    tool, session = installed / "bin/tokexport-run", load(toy)
    loud = SOUNDS["short"]
    for kind in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT"):
        path = tmp_path / f"{kind}.wav"
        soundfile.write(path, np.stack([loud, loud], 1) if kind == "PCM_24" else loud, RATE, kind)
        assert run(tool, toy, "--audio", path).stdout.strip() == session.generate(path).text == "three"
    path = tmp_path / "seven.wav"
    soundfile.write(path, SOUNDS["seven"], RATE, "FLOAT")
    shown = run(tool, toy, "--audio", path, "--language", "en", "--task", "transcribe", "--timestamps")
    assert shown.stdout.splitlines()[0] == "[0.00 - 2.00] seven" and "heard 31 of 31 s" in shown.stderr
    asked = json.loads(run(tool, toy, "--audio", path, "--json", "--language", "en").stdout)
    assert asked == session.generate(path, language="en").to_json()
    ids = run(tool, toy, "--audio", path, "--json", "--prompt-ids", f"{START},{EN},{TRANSLATE},{NO_TIMES}")
    assert json.loads(ids.stdout) == session.generate(path, [START, EN, TRANSLATE, NO_TIMES]).to_json()
    path = tmp_path / "endless.wav"
    soundfile.write(path, SOUNDS["without end"], RATE, "FLOAT")
    endless = run(tool, toy, "--audio", path)
    assert "note: the limit of 6 tokens cut" in endless.stderr and "note: the transcript repeats" in endless.stderr
    soundfile.write(path, SOUNDS["short"], 44100, "FLOAT")
    assert "44100 samples a second" in run(tool, toy, "--audio", path, code=2).stderr
    assert "lacks the language 'fr'" in run(tool, toy, "--audio", path, "--language", "fr", code=2).stderr
    soundfile.write(path, np.zeros(0, np.float32), RATE, "FLOAT")
    assert "holds no samples" in run(tool, toy, "--audio", path, code=2).stderr


def test_a_speech_record_that_python_refuses_is_refused(cpp: Calls, toy: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(toy, tmp_path / "copy"))
    file = path / "manifest.json"
    whole = json.loads(file.read_text())
    refused = 0
    keys, values = list(whole["variants"][0]["generation"]["speech"]), ({}, None, -1, "no", [1], 78)
    more = [("more", 1), ("languages", {"en": "no"}), ("timestamp_seconds", 0)]
    for key, value in [*((key, value) for key in keys for value in values), *more]:
        changed = json.loads(json.dumps(whole))
        changed["variants"][0]["generation"]["speech"][key] = value
        file.write_text(json.dumps(changed))
        python, found = outcome(open_bundle, path), outcome(cpp, "open", bundle=path)
        assert (python is BundleError) == (found is BundleError), (key, value)
        refused += python is BundleError
    assert refused > 20
    for key, value in (("suppress", [78]), ("begin_suppress", [-1]), ("suppress", {}), ("speech", 3)):
        changed = json.loads(json.dumps(whole))
        changed["variants"][0]["generation"][key] = value
        file.write_text(json.dumps(changed))
        assert outcome(open_bundle, path) is outcome(cpp, "open", bundle=path) is BundleError, (key, value)


def test_a_whisper_folder_is_heard_as_in_python(cpp: Calls, tiny_whisper_folder: Path, tmp_path: Path) -> None:
    settings = {"method": "kcenter_merge", "ratio": "0.5", "verify": False}
    path = export(str(tiny_whisper_folder), tmp_path / "w", window=[1, 2], **settings).bundle
    session = load(path, threads=1)
    rng = np.random.default_rng(8)
    sounds = [
        read_sound(CLIPS[0], 16000)[:16000],
        rng.normal(0, 0.1, 60000).astype(np.float32),
        np.zeros(9000, np.float32),
    ]
    said = set()
    for sound in sounds:
        for asked in ({}, {"language": "de", "task": "translate"}, {"timestamps": True}, {"max_new_tokens": 2}):
            found = cpp.sound("generate", sound, bundle=path, keep=True, **asked)
            assert found == session.generate(sound, **asked).to_json(), asked
            said |= set(found["ids"])
    assert len(said) > 10


@pytest.mark.slow
def test_a_moonshine_folder_is_heard_as_in_python(cpp: Calls, installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    soundfile = pytest.importorskip("soundfile")
    folder = tiny_checkpoints.moonshine(tmp_path / "folder")
    settings = {"method": "kcenter_merge", "ratio": "0.5", "verify": False}
    path = export(str(folder), tmp_path / "m", window=[4, 6], **settings).bundle
    session, said = load(path, threads=1), set()
    for number, sound in enumerate(spoken(3, 150000)):
        for asked in ({}, {"max_new_tokens": 2}):
            found = cpp.sound("generate", sound, bundle=path, keep=True, **asked)
            assert found == session.generate(sound, **asked).to_json(), (number, asked)
            said |= set(found["ids"])
        soundfile.write(tmp_path / "sound.wav", sound, 16000, "FLOAT")
        shown = run(installed / "bin/tokexport-run", path, "--audio", tmp_path / "sound.wav")
        assert shown.stdout.strip() == session.generate(tmp_path / "sound.wav").text
    assert len(said) > 10
    for asked in ({"language": "en"}, {"timestamps": True}):
        assert outcome(cpp.sound, "generate", sound, bundle=path, **asked) is RequestError
        assert outcome(session.generate, sound, **asked) is RequestError


def test_windows_of_a_recogniser_are_told_the_same(cpp: Calls, tmp_path: Path) -> None:
    path = toy_speech.write(tmp_path / "b", (30, 10))
    whole = json.loads((path / "manifest.json").read_text())
    cpp("open", bundle=path)
    for number, key, value in ((1, "languages", {"en": EN}), (1, "no_timestamps", NO_TIMES - 1), (0, "timestamps", 0)):
        told = json.loads(json.dumps(whole))
        told["variants"][number]["generation"]["speech"][key] = value
        (path / "manifest.json").write_text(json.dumps(told))
        with pytest.raises(BundleError):
            cpp("open", bundle=path)
