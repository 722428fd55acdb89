"""Audio folders with a language model: whole, and without compression the answers of transformers."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio
import tokexport
from click.testing import CliRunner
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.families.spoken import RATE, spoken
from tokexport.exporter.opening import open_source

pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
# Family -> tokens of its window, and its seconds.
WINDOWS = {
    "qwen2_audio": (50, 2),
    "voxtral": (25, 2),
    "glmasr": (25, 2),
    "qwen3_asr": (39, 3),
    "granite_speech": (30, 3),
    "granite_speech_plus": (30, 3),
}
# Whole exports of further families are for `make test-slow`.
_PARAMS = [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("qwen2_audio", "voxtral"))) for name in WINDOWS]


@pytest.fixture(scope="module", params=_PARAMS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def samples(family: str) -> int:
    return WINDOWS[family][1] * RATE


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return getattr(tiny_audio, family)(tmp_path_factory.mktemp("checkpoints") / f"tiny-{family}")


@pytest.fixture(scope="module")
def exported(family: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tokexport.Exported:
    return tokexport.export(
        str(folder),
        tmp_path_factory.mktemp("bundles") / folder.name,
        method="kcenter_merge",
        keep=[WINDOWS[family][0], 5],
        prompt_length=32,
        answer_length=16,
        window=WINDOWS[family][1] if family.startswith("granite") else None,
    )


@pytest.fixture(scope="module")
def asked(family: str, folder: Path) -> Any:
    """What `generate` of transformers answers, from the sound and the question, by the processor of the model."""
    import torch
    from transformers import (
        AutoModelForMultimodalLM,
        GlmAsrProcessor,
        PreTrainedTokenizerFast,
        Qwen2AudioProcessor,
        Qwen3ASRFeatureExtractor,
        Qwen3ASRProcessor,
        WhisperFeatureExtractor,
    )

    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>")

    def qwen2_audio(wave: np.ndarray) -> dict[str, Any]:
        processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=tiny_audio.SOUND_CHAT)
        content = [{"type": "audio", "audio_url": "a.wav"}, {"type": "text", "text": QUESTION}]
        turn = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return processor(text=[text], audio=[wave], sampling_rate=RATE, return_tensors="pt")

    def voxtral(wave: np.ndarray) -> dict[str, Any]:
        text = f"<s>[INST][BEGIN_AUDIO]{'[AUDIO]' * WINDOWS[family][0]}{QUESTION}[/INST]"
        words = tokenizer([text], add_special_tokens=False, return_tensors="pt")
        features = extractor(wave, sampling_rate=RATE, return_tensors="pt")["input_features"]
        return {**{name: words[name] for name in ("input_ids", "attention_mask")}, "input_features": features}

    def glmasr(wave: np.ndarray) -> dict[str, Any]:
        processor = GlmAsrProcessor(extractor, tokenizer, tiny_audio.GLM_CHAT)
        turn = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": QUESTION}]}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return processor(text=[text], audio=[wave])

    def qwen3_asr(wave: np.ndarray) -> dict[str, Any]:
        marks = {
            f"audio{name}_token": f"<|audio_{end}|>" for name, end in (("", "pad"), ("_bos", "start"), ("_eos", "end"))
        }
        reader = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **marks, pad_token="<pad>")
        processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor.from_pretrained(folder), reader)
        text = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n"
        return processor(text=[f"{text}<|im_start|>assistant\n{QUESTION}"], audio=[wave], add_special_tokens=False)

    def granite_speech(wave: np.ndarray) -> dict[str, Any]:
        chat = [{"role": "user", "content": f"<|audio|>{QUESTION}"}]
        tokenizer.chat_template = tiny_audio.GRANITE_CHAT
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        text = text.replace("<|audio|>", "<|audio|>" * WINDOWS[family][0])
        return {**tokenizer([text], return_tensors="pt"), "input_features": tiny_audio.granite_features(wave)}

    model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32)
    if family == "granite_speech" and not model._hf_peft_config_loaded:
        tiny_audio.adapted(model.model.language_model, folder)

    def answer(wave: np.ndarray) -> list[int]:
        made = (qwen2_audio, voxtral, glmasr, qwen3_asr, granite_speech)
        inputs = next(one for one in made if family.startswith(one.__name__))(wave)
        inputs = {name: value for name, value in inputs.items() if name != "token_type_ids"}
        said = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        return [i for i in said[0, inputs["input_ids"].shape[1] :].tolist() if i != 2]

    return answer


def _full(number: int, samples: int) -> np.ndarray:
    wave = spoken(6, samples)[1 + number]
    assert wave.shape == (samples,), "it fills the window"
    return wave


def test_all_parts_and_the_answers_are_proved(family, exported):
    checks = {check["part"]: check for check in exported.proof["checks"]}
    assert {"head", "compressor", "embed", "prefill", "decode", "generation"} <= checks.keys()
    assert all(check["ok"] for check in checks.values()) and "tokens of 3 answers" in checks["generation"]["detail"]
    assert exported.compression[0]["seam"]["kind"] == "projector_output" and exported.compression[0]["size_bias"]
    assert any(f"read as one of {WINDOWS[family][1]} s" in note for note in exported.notes)


@pytest.mark.parametrize("number", range(2))
def test_a_sound_that_fills_the_window_is_answered_as_transformers_does(exported, asked, number, samples):
    wave = _full(number, samples)
    said, answer = asked(wave), tokexport.load(exported.bundle).generate(wave, QUESTION)
    assert len(set(said)) > 1 and answer.ids == said
    assert not any("silence" in note for note in answer.notes)


def test_a_shorter_sound_is_one_that_ends_in_silence_and_its_answer_says_so(family, exported, asked, samples):
    wave = _full(0, samples)[: samples // 2]
    answer = tokexport.load(exported.bundle).generate(wave, QUESTION)
    # Others than the processor of Voxtral mask what is behind a sound, or add nothing: they get the silence itself.
    assert answer.ids == asked(wave if family == "voxtral" else np.pad(wave, (0, samples - wave.size)))
    assert any("by its mask" in note for note in exported.notes) == (family in ("qwen2_audio", "glmasr"))
    seconds = WINDOWS[family][1]
    assert any(note.endswith(f"of {seconds} s are silence, which the model hears as such") for note in answer.notes)


def test_a_longer_sound_is_refused(exported, samples):
    with pytest.raises(RequestError, match=f"the encoder takes at most {samples // RATE} s"):
        tokexport.load(exported.bundle).generate(np.ones(samples + 1, np.float32), QUESTION)


def test_run_takes_a_sound_and_a_question(family, exported, samples, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", _full(0, samples), RATE)
    command = ["run", str(exported.bundle), "--audio", str(tmp_path / "a.wav")]
    answered = CliRunner().invoke(main, [*command, "--prompt", QUESTION])
    assert answered.exit_code == 0 and answered.stdout.strip()
    unasked = CliRunner().invoke(main, command)
    if family == "qwen3_asr":
        # Its prompt is what an answer begins with.
        assert unasked.exit_code == 0 and unasked.stdout.strip()
        return
    assert unasked.exit_code == 2 and "--prompt 'What is said?'" in str(unasked.output)


def test_in_front_of_the_projector_no_token_may_go(family, folder, tmp_path):
    if family == "qwen3_asr":
        # Its projector takes one token at a time.
        made = tokexport.export(str(folder), tmp_path / "b", method="uniform", keep=8, seam="encoder_output")
        assert all(check["ok"] for check in made.proof["checks"])
        return
    with pytest.raises(RequestError, match=r"encoder_output .* its (average pool|projector|queries) (makes|read)"):
        tokexport.export(str(folder), tmp_path / "b", method="topk", keep=8, seam="encoder_output")


def test_mistrals_own_tokenizer_becomes_a_file_by_the_command_that_is_printed(tmp_path):
    pytest.importorskip("transformers.integrations.mistral")
    folder = tiny_audio.voxtral(tmp_path / "voxtral")
    (folder / "tokenizer.json").unlink()
    special = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[BEGIN_AUDIO]", "[/INST]", "[AUDIO]")
    tekken = {
        "config": {"pattern": "[a-z]+", "default_vocab_size": 34, "default_num_special_tokens": 8},
        "special_tokens": [{"rank": i, "token_str": token} for i, token in enumerate(special)],
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(bytes([97 + i])).decode()} for i in range(26)],
    }
    (folder / "tekken.json").write_text(json.dumps(tekken))
    with pytest.raises(RequestError, match=r"the folder has no tokenizer\.json") as refused:
        open_source(str(folder), parts="all")
    exec(re.search(r'python -c "(.*?)"', refused.value.fix)[1], {})
    assert (folder / "tokenizer.json").is_file()


def test_places_that_do_not_stack_to_whole_tokens_are_refused(tmp_path):
    folder = tiny_audio.voxtral(tmp_path / "voxtral")
    config = json.loads((folder / "config.json").read_text())
    config["audio_config"]["intermediate_size"] = 60
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match="100 places of 16 channels do not stack to whole tokens of 60"):
        open_source(str(folder))
