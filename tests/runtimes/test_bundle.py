import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy_bundle
import toy_listener
import toy_speech
from pydantic import VERSION, ValidationError
from tokexport.errors import RequestError
from tokexport.files import parse_json
from tokexport.runtimes.bundle import manifest as contract
from tokexport.runtimes.bundle.manifest import (
    GenerationRecord,
    LogMelRecord,
    Manifest,
    PreprocessRecord,
    ProcessorRecord,
    SpeechRecord,
    json_schema,
    newest,
)
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.bundle.strict import LENIENT, inside


def data() -> dict[str, Any]:
    graphs = {"encoder": toy_bundle.record(toy_bundle.model(toy_bundle.ENCODER), "encoder.onnx")}
    found: dict[str, Any] = json.loads(toy_bundle.manifest(graphs).to_json())
    return found


@pytest.mark.skipif(tuple(map(int, VERSION.split(".")[:2])) < (2, 9), reason="older pydantic writes it differently")
def test_published_schema_is_what_the_classes_say() -> None:
    # Stale? python -m tokexport.runtimes.bundle.manifest > runtimes/bundle/manifest.schema.json
    published = Path(contract.__file__).with_name("manifest.schema.json")
    assert json.loads(published.read_text()) == json_schema()


def test_json_schema_refuses_what_the_classes_refuse() -> None:
    schema = json_schema()
    assert "schema" in schema["required"]
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        assert list(part["patternProperties"]) == ["^x-"]


def test_manifest_survives_its_own_json() -> None:
    manifest = Manifest.model_validate(data())
    assert json.loads(manifest.to_json()) == data()
    assert data()["schema"] == "2.0"


def test_unknown_key_is_refused_by_name_at_every_level() -> None:
    with pytest.raises(ValidationError, match="unknown key 'colour'"):
        Manifest.model_validate(data() | {"colour": 1})
    deep = data()
    deep["variants"][0]["graphs"]["encoder"]["inputs"]["pixel_values"]["stride"] = 2
    with pytest.raises(ValidationError, match="unknown key 'stride'"):
        Manifest.model_validate(deep)
    Manifest.model_validate(deep, context=LENIENT)


def test_private_keys_are_kept() -> None:
    own = data()
    own["x-team"] = {"any": ["thing"]}
    own["variants"][0]["x-note"] = "hello"
    assert json.loads(Manifest.model_validate(own).to_json()) == own


@pytest.mark.parametrize("path", ["encoder.onnx", "processor/words.json", "a..b", "ö/x y"])
def test_plain_relative_paths_are_inside(path: str) -> None:
    assert inside(path) == path


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/passwd", "a\\b", "C:/x", "a//b", "./a", "a/", "", ".", "..", "a\nb", "a\0b"],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        inside(path)


@pytest.mark.parametrize("place", ["files", "forms", "vocabulary"])
def test_every_path_of_the_manifest_is_checked(place: str) -> None:
    wrong = data()
    if place == "files":
        wrong["files"]["../x"] = {"size": 0, "sha256": "0" * 64}
    elif place == "forms":
        wrong["variants"][0]["graphs"]["encoder"]["forms"]["portable"] = "../x"
    else:
        wrong["processor"]["vocabulary"] = "../x"
    with pytest.raises(ValidationError, match="leaves the bundle"):
        Manifest.model_validate(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_span": [1, 5]}, "image_span"),
        ({"image_span": [6, 2]}, "image_span"),
        ({"eos": []}, "eos"),
        ({"eos": [10]}, "special id 10"),
        ({"pad": -1}, "special id -1"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_generation_record_must_fit_together(change: dict[str, Any], message: str) -> None:
    good = toy_bundle.generation().model_dump()
    GenerationRecord.model_validate(good)
    with pytest.raises(ValidationError, match=message):
        GenerationRecord.model_validate(good | change)


def decoding(schema: str) -> dict[str, Any]:
    text = toy_bundle.whole(toy_bundle.DECODE) if schema.startswith("1.") else toy_bundle.DECODE
    graphs = {"decode": toy_bundle.record(toy_bundle.model(text), "decode.onnx")}
    found: dict[str, Any] = json.loads(toy_bundle.manifest(graphs, schema=schema).to_json())
    return found


@pytest.mark.parametrize(
    ("role", "name", "change", "wrong"),
    [
        ("decode", "new_state_conv_0", None, "decode` has no 'new_state_conv_0', and decode takes 'state_conv_0'"),
        ("prefill", "state_conv_0", None, "prefill` has no 'state_conv_0'"),
        ("decode", "new_state_conv_0", {"shape": [1, 2]}, r"is float32 \[1, 2\], and decode takes float32 \[1, 1\]"),
        ("prefill", "state_conv_0", {"dtype": "float16"}, r"is float16 \[1, 1\], and decode takes float32"),
    ],
)
def test_a_state_is_given_and_replaced_as_it_is_taken(role: str, name: str, change: Any, wrong: str) -> None:
    texts = toy_bundle.STATEFUL
    graphs = {each: toy_bundle.record(toy_bundle.model(text), f"{each}.onnx") for each, text in texts.items()}
    manifest = toy_bundle.manifest(graphs, schema="2.2")
    assert manifest.variants[0].oldest_schema == "2.2" and toy_bundle.variant({}).oldest_schema == "2.0"
    found = json.loads(manifest.to_json())
    outputs = found["variants"][0]["graphs"][role]["outputs"]
    if change is None:
        del outputs[name]
    else:
        outputs[name] |= change
    with pytest.raises(ValidationError, match=wrong):
        Manifest.model_validate(found)


@pytest.mark.parametrize(("schema", "other", "wanted"), [("1.0", "2.0", "new_key_0"), ("2.3", "1.0", "present_key_0")])
def test_the_schema_says_what_decode_returns(schema: str, other: str, wanted: str) -> None:
    assert Manifest.model_validate(decoding(schema)).schema_ == schema
    with pytest.raises(ValidationError, match=f"no '{wanted}', which schema {other} asks for"):
        Manifest.model_validate(decoding(schema) | {"schema": other})


@pytest.mark.parametrize(
    ("schema", "name", "change"),
    [
        ("2.0", "new_value_0", {"shape": [1, 1, 2, 1]}),
        ("2.0", "new_key_0", {"dtype": "float16"}),
        ("1.0", "present_value_0", {"shape": [1, 1, 1, 1]}),
    ],
)
def test_what_decode_returns_fits_into_its_cache(schema: str, name: str, change: dict[str, Any]) -> None:
    wrong = decoding(schema)
    wrong["variants"][0]["graphs"]["decode"]["outputs"][name] |= change
    with pytest.raises(ValidationError, match=f"'{name}' of the graph `decode` is .* and not float32"):
        Manifest.model_validate(wrong)


def test_words_processor_needs_a_vocabulary() -> None:
    with pytest.raises(ValidationError, match="vocabulary"):
        ProcessorRecord(kind="words")


def test_named_files_are_graphs_and_vocabulary() -> None:
    manifest = Manifest.model_validate(data())
    assert list(manifest.named_files()) == ["encoder.onnx", "processor/words.json"]


def test_a_record_of_preprocessing_without_a_kind_is_that_of_an_image() -> None:
    old = data()
    assert old["preprocess"].pop("kind") == "image"
    assert isinstance(Manifest.model_validate(old).preprocess, PreprocessRecord)


def test_a_log_mel_record_survives_its_own_json() -> None:
    sound = {"kind": "log_mel", "sample_rate": 16000, "n_fft": 400, "hop": 160, "mels": 80, "frames": 3000}
    manifest = Manifest.model_validate(data() | {"preprocess": sound})
    assert isinstance(manifest.preprocess, LogMelRecord)
    assert manifest.preprocess.samples == 480_000
    assert json.loads(manifest.to_json())["preprocess"] == sound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "smell"}, "smell"),
        ({"mels": 0}, "mels"),
        ({"frames": 1}, "160 samples cannot"),
        ({"window": 401}, "a window of 401 samples"),
    ],
)
def test_a_log_mel_record_must_fit_together(change: dict[str, Any], message: str) -> None:
    sound = {"kind": "log_mel", "sample_rate": 16000, "n_fft": 400, "hop": 160, "mels": 80, "frames": 3000}
    with pytest.raises(ValidationError, match=message):
        Manifest.model_validate(data() | {"preprocess": sound | change})


def test_tokens_beside_the_text_have_no_place_in_it() -> None:
    good = toy_listener.generation().model_dump()
    assert GenerationRecord.model_validate(good).attention == "cross"
    with pytest.raises(ValidationError, match="cross-attention"):
        GenerationRecord.model_validate(good | {"image_span": [1, 2]})


def test_a_variant_is_named_by_its_ratio_where_no_other_has_it(tmp_path: Path) -> None:
    bundle = open_bundle(toy_bundle.write(tmp_path / "toy"))
    assert bundle.variant("0.5") is bundle.manifest.variants[0]
    other = bundle.manifest.variants[0].model_copy(update={"name": "other"})
    twice = replace(bundle, manifest=bundle.manifest.model_copy(update={"variants": [bundle.variant(), other]}))
    with pytest.raises(RequestError, match=r"2 variants of ratio '0\.5'.*Known variants: other, toy-0\.5"):
        twice.variant("0.5")
    with pytest.raises(RequestError, match=r"no variant '0\.75'.*Known variants: toy-0\.5"):
        bundle.variant("0.75")


CHECK = {"part": "head", "tensor": "t", "ok": True, "cosine": 1, "norm_ratio": 1.0, "max_abs": 0.0}


@pytest.mark.parametrize(
    "parity",
    [
        {"notes": 3},
        {"notes": [3]},
        {"checks": "x"},
        {"checks": [3]},
        {"checks": [{"part": "head"}]},
        {"checks": [{**CHECK, "cosine": "1"}]},
        {"failed": 3},
        {"sealed": 3},
        {"variants": []},
        {"variants": {"a": {"notes": 3}}},
    ],
)
def test_what_the_export_recorded_is_typed(parity: dict[str, Any]) -> None:
    Manifest.model_validate(data() | {"parity": {"checks": [CHECK], "notes": ["x"], "more": 1}})
    with pytest.raises(ValidationError, match="what `parity` records is wrong at"):
        Manifest.model_validate(data() | {"parity": parity})


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '["\\uDFFF x"]', '{"\\ud800": 1}'])
def test_half_a_surrogate_pair_is_no_text(text: str) -> None:
    for spelled in (text, text.encode()):
        with pytest.raises(ValueError, match="half a surrogate pair"):
            parse_json(spelled)
    assert parse_json('"\\ud83d\\ude00 \\\\ud800"') == "\U0001f600 \\ud800"


def test_windows_of_a_recogniser_are_told_the_same(tmp_path: Path) -> None:
    told = json.loads((toy_speech.write(tmp_path / "speech", (30, 10)) / "manifest.json").read_text())
    Manifest.model_validate(told)
    del told["variants"][1]["generation"]["speech"]["languages"]["de"]
    with pytest.raises(ValidationError, match="the record of speech of variant toy-10s is not that of toy-30s"):
        Manifest.model_validate(told)


def test_times_stand_behind_the_words() -> None:
    with pytest.raises(ValidationError, match=r"timestamps"):
        SpeechRecord(start=0, timestamps=0)


def test_schemas_are_compared_as_numbers():
    assert newest(["2.9", "2.10", "2.0"]) == "2.10" and newest(["2.0"]) == "2.0"
