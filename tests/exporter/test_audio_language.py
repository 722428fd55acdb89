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
# Family -> tokens of its window.
TOKENS = {"qwen2_audio": 50, "voxtral": 25}
SAMPLES = 2 * RATE


@pytest.fixture(scope="module", params=TOKENS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return getattr(tiny_audio, family)(tmp_path_factory.mktemp("checkpoints") / f"tiny-{family}")


@pytest.fixture(scope="module")
def exported(family: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tokexport.Exported:
    return tokexport.export(
        str(folder),
        tmp_path_factory.mktemp("bundles") / folder.name,
        method="kcenter_merge",
        keep=[TOKENS[family], 5],
        prompt_length=32,
        answer_length=16,
    )


@pytest.fixture(scope="module")
def asked(family: str, folder: Path) -> Any:
    """What `generate` of transformers answers, from the sound and the question, by the processor of the model."""
    import torch
    from transformers import (
        AutoModelForMultimodalLM,
        PreTrainedTokenizerFast,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))

    def qwen2_audio(wave: np.ndarray) -> dict[str, Any]:
        processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=tiny_audio.SOUND_CHAT)
        content = [{"type": "audio", "audio_url": "a.wav"}, {"type": "text", "text": QUESTION}]
        turn = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return processor(text=[text], audio=[wave], sampling_rate=RATE, return_tensors="pt")

    def voxtral(wave: np.ndarray) -> dict[str, Any]:
        text = f"<s>[INST][BEGIN_AUDIO]{'[AUDIO]' * TOKENS[family]}{QUESTION}[/INST]"
        words = tokenizer([text], add_special_tokens=False, return_tensors="pt")
        features = extractor(wave, sampling_rate=RATE, return_tensors="pt")["input_features"]
        return {**{name: words[name] for name in ("input_ids", "attention_mask")}, "input_features": features}

    model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32)

    def answer(wave: np.ndarray) -> list[int]:
        inputs = {"qwen2_audio": qwen2_audio, "voxtral": voxtral}[family](wave)
        said = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        return [i for i in said[0, inputs["input_ids"].shape[1] :].tolist() if i != 2]

    return answer


def _full(number: int) -> np.ndarray:
    wave = spoken(6, SAMPLES)[1 + number]
    assert wave.shape == (SAMPLES,), "it fills the window"
    return wave


def test_all_parts_and_the_answers_are_proved(exported):
    checks = {check["part"]: check for check in exported.proof["checks"]}
    assert {"head", "compressor", "embed", "prefill", "decode", "generation"} <= checks.keys()
    assert all(check["ok"] for check in checks.values()) and "tokens of 3 answers" in checks["generation"]["detail"]
    assert exported.compression[0]["seam"]["kind"] == "projector_output" and exported.compression[0]["size_bias"]
    assert any("read as one of 2 s" in note for note in exported.notes)


@pytest.mark.parametrize("number", range(2))
def test_a_sound_that_fills_the_window_is_answered_as_transformers_does(exported, asked, number):
    wave = _full(number)
    said, answer = asked(wave), tokexport.load(exported.bundle).generate(wave, QUESTION)
    assert len(set(said)) > 1 and answer.ids == said
    assert not any("silence" in note for note in answer.notes)


def test_a_shorter_sound_is_one_that_ends_in_silence_and_its_answer_says_so(family, exported, asked):
    wave = _full(0)[: SAMPLES // 2]
    answer = tokexport.load(exported.bundle).generate(wave, QUESTION)
    # The processor of Qwen2-Audio masks what is behind a sound, so it is given the silence itself.
    assert answer.ids == asked(np.pad(wave, (0, SAMPLES - wave.size)) if family == "qwen2_audio" else wave)
    assert any("by its mask" in note for note in exported.notes) == (family == "qwen2_audio")
    assert any(note.endswith("of 2 s are silence, which the model hears as such") for note in answer.notes)


def test_a_longer_sound_is_refused(exported):
    with pytest.raises(RequestError, match="the encoder takes at most 2 s"):
        tokexport.load(exported.bundle).generate(np.ones(SAMPLES + 1, np.float32), QUESTION)


def test_run_takes_a_sound_and_a_question(exported, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", _full(0), RATE)
    command = ["run", str(exported.bundle), "--audio", str(tmp_path / "a.wav")]
    answered = CliRunner().invoke(main, [*command, "--prompt", QUESTION])
    assert answered.exit_code == 0 and answered.stdout.strip()
    unasked = CliRunner().invoke(main, command)
    assert unasked.exit_code == 2 and "--prompt 'What is said?'" in str(unasked.output)


def test_in_front_of_the_projector_no_token_may_go(folder, tmp_path):
    with pytest.raises(RequestError, match=r"encoder_output of .* its (average pool|projector) makes one token"):
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
