"""tiny-asr: what is spoken is what is asked, the exported modules equal the trained model, the weights can hear."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokexport.errors import MissingError
from tokexport.exporter.zoo.tiny_asr.clips import clips
from tokexport.exporter.zoo.tiny_asr.speech import (
    ACCENTS,
    HELD_OUT_ACCENTS,
    HELD_OUT_TIMBRES,
    HELD_OUT_VOICES,
    HOP,
    SOUND,
    TIMBRES,
    TOKENS,
    VOICES,
    Speech,
    place,
    utterance,
)
from tokexport.exporter.zoo.tiny_asr.text import DIGITS, detokenize, tokenize
from tokexport.runtimes.media.log_mel import input_features

if TYPE_CHECKING:
    from tokexport.exporter.zoo.tiny_asr.model import TinyASR

HUM = Speech(np.sin(np.arange(16000, dtype=np.float32) / 10), "one two three", "nobody")

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="apt-get install espeak-ng")


def test_importing_the_speakers_imports_no_torch() -> None:
    code = (
        "import sys, tokexport.exporter.zoo.tiny_asr.speech, tokexport.exporter.zoo.tiny_asr.clips; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_held_out_voices_share_neither_accent_nor_timbre_with_those_of_training() -> None:
    assert not {*ACCENTS} & {*HELD_OUT_ACCENTS}
    assert not {*TIMBRES} & {*HELD_OUT_TIMBRES}
    assert all(voice.split("+")[0] in ACCENTS and voice.split("+")[1] in TIMBRES for voice in VOICES)
    assert len({*VOICES}) == len(ACCENTS) * len(TIMBRES)


def test_tokens_with_speech_lie_where_it_was_put() -> None:
    for seed in range(30):
        heard = place(HUM, np.random.default_rng(seed))
        where = np.flatnonzero(heard.content)
        assert len(where) in (16000 // HOP, 16000 // HOP + 1)
        assert (np.diff(where) == 1).all()
        power = (heard.waveform.reshape(TOKENS, HOP) ** 2).mean(1)
        middle = where[5:-5]
        assert power[middle].min() > 5 * np.delete(power, np.arange(where[0] - 1, where[-1] + 2)).max()


def test_windows_are_cut_from_long_recordings_and_from_short_files() -> None:
    heard = [place(HUM, np.random.default_rng(seed)).waveform for seed in range(100)]
    assert all(sound.shape == (SOUND.samples,) and np.abs(sound).max() <= 1 for sound in heard)
    short = sum(not sound[-1000:].any() for sound in heard)
    assert 30 < short < 70


def test_without_espeak_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingError, match="apt-get install espeak-ng") as caught:
        utterance(0, 0)
    assert caught.value.exit_code == 3


@needs_espeak
def test_espeak_speaks_the_same_utterance_again() -> None:
    first, again, other = utterance(5, 1), utterance(5, 1), utterance(5, 2)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    assert (first.text, first.voice) == (again.text, again.voice)
    assert first.voice in VOICES
    assert len(first.waveform) == len(other.waveform) == SOUND.samples
    assert not np.array_equal(first.waveform, other.waveform)


@needs_espeak
def test_espeak_utterances_are_three_to_seven_digits() -> None:
    heard = [utterance(6, index, HELD_OUT_VOICES) for index in range(30)]
    assert {len(item.text.split()) for item in heard} == {3, 4, 5, 6, 7}
    assert all(word in DIGITS for item in heard for word in item.text.split())
    assert all(item.voice in HELD_OUT_VOICES and 0.1 < item.content.mean() < 0.95 for item in heard)


def test_the_committed_clips_are_short_and_two_voices_are_held_out() -> None:
    found = clips()
    assert len(found) == 6
    assert sum(clip.path.stat().st_size for clip in found) < 500_000
    assert [clip.voice in HELD_OUT_VOICES for clip in found] == [False] * 4 + [True] * 2
    for clip in found:
        assert detokenize(tokenize(clip.text)) == clip.text
        assert 0.3 < np.abs(clip.waveform()).max() < 1


# --- the model; torch from here on -----------------------------------------------------------------------------------

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model() -> TinyASR:
    from tokexport.exporter.zoo.tiny_asr.model import load

    return load()


def test_weights_are_small_and_finite(model: TinyASR) -> None:
    from tokexport.exporter.zoo.tiny_asr.model import WEIGHTS

    assert WEIGHTS.stat().st_size < 3_000_000
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


@torch.inference_mode()
def test_prefill_and_decode_equal_the_training_pass(model: TinyASR) -> None:
    """Three sounds, behind prompts of one, two and four ids."""
    from tokexport.exporter.zoo.decoding import write
    from tokexport.exporter.zoo.tiny_asr.model import Decode, Encoder, Prefill

    config, layers = model.config, 2 * model.config.layers
    features = torch.from_numpy(np.concatenate([input_features(clip.waveform(), SOUND) for clip in clips()[:3]]))
    texts = [[1], [1, 5], [1, 4, 12, 3]]
    ids = torch.tensor([text + [0] * (config.prompt_length - len(text)) for text in texts])
    index = torch.tensor([len(text) - 1 for text in texts])
    tokens, bias = Encoder(model)(features), torch.zeros(3, config.tokens)
    assert tokens.shape == (3, config.tokens, config.dim)
    logits, *caches = Prefill(model)(ids, tokens, bias, index)
    past, cross = caches[:layers], caches[layers:]
    assert past[0].shape == (3, config.heads, config.capacity, config.head_dim)
    assert cross[0].shape == (3, config.heads, config.tokens, config.head_dim)
    for _ in range(4):
        whole = [model(features[n : n + 1], torch.tensor([text]))[0, -1] for n, text in enumerate(texts)]
        torch.testing.assert_close(logits, torch.stack(whole), rtol=1e-4, atol=1e-4)
        word, index = logits.argmax(-1), index + 1
        texts = [[*text, int(add)] for text, add in zip(texts, word, strict=True)]
        logits, *new = Decode(model)(word[:, None], index, bias, *past, *cross)
        write(past, new, index)


@settings(max_examples=15, deadline=None)
@given(copies=st.lists(st.integers(1, 5), min_size=2, max_size=6), seed=st.integers(0, 2**31))
@torch.inference_mode()
def test_the_bias_makes_merging_of_equal_tokens_exact(copies: list[int], seed: int) -> None:
    """n copies of a token are one token with bias log n, at any depth: tokens of a sound do not see each other here."""
    from tokexport.exporter.zoo.tiny_asr.model import Decode, Prefill, TinyASR

    torch.manual_seed(seed)
    random = TinyASR().eval()
    sizes, layers = torch.tensor([copies]), 2 * random.config.layers
    merged = torch.randn(1, len(copies), random.config.dim)
    copied = merged.repeat_interleave(sizes[0], 1)
    ids, last = torch.randint(3, 13, (1, random.config.prompt_length)), torch.tensor([2])

    def hear(tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        first, *caches = Prefill(random)(ids, tokens, bias, last)
        second, *_ = Decode(random)(ids[:, :1], last + 1, bias, *caches[:layers], *caches[layers:])
        return torch.stack([first, second])

    expected = hear(copied, torch.zeros(copied.shape[:2]))
    torch.testing.assert_close(hear(merged, sizes.float().log()), expected, rtol=1e-4, atol=1e-4)
    if len({*copies}) > 1:
        assert not torch.allclose(hear(merged, torch.zeros(merged.shape[:2])), expected, rtol=1e-4, atol=1e-4)


def test_word_errors_count_every_kind_of_mistake() -> None:
    from tokexport.exporter.zoo.tiny_asr.evaluate import words_right

    assert words_right(["one two", "three"], ["one two", "three"]) == 1
    assert words_right(["one", "three"], ["one two", "three four"]) == 0.5
    assert words_right(["one two two", "nine"], ["one two", "three eight"]) == pytest.approx(1 - 3 / 4)
    assert words_right(["one one one one"], ["two"]) == -3


def test_the_shipped_weights_hear_the_clips(model: TinyASR) -> None:
    from tokexport.exporter.zoo.tiny_asr.evaluate import encode, transcribe

    found = clips()
    sounds = [clip.waveform() for clip in found]
    heard = np.stack([np.pad(sound, (0, SOUND.samples - len(sound))) for sound in sounds])
    assert transcribe(model, encode(model, heard)) == [clip.text for clip in found]


@needs_espeak
def test_espeak_utterances_are_heard_with_few_errors(model: TinyASR) -> None:
    from tokexport.exporter.zoo.tiny_asr.evaluate import evaluate

    assert evaluate(model, 100, seed=11) > 0.98
    assert evaluate(model, 50, seed=11, voices=HELD_OUT_VOICES) > 0.9


def test_inputs_of_the_proof_are_the_clips_and_no_two_are_equal() -> None:
    from tokexport.exporter.opening import open_source

    source = open_source("tiny-asr")
    inputs = [each["input_features"] for each in source.real_inputs(8)]
    np.testing.assert_array_equal(inputs[2], input_features(clips()[2].waveform(), SOUND))
    np.testing.assert_array_equal(source.real_inputs(8)[7]["input_features"], inputs[7])
    assert all(not np.array_equal(one, other) for i, one in enumerate(inputs) for other in inputs[:i])
    assert source.language(30) == [] and source.generation(30) is None
    assert source.preprocess == SOUND


@needs_espeak
def test_espeak_questions_are_the_same_for_the_same_seed() -> None:
    from tokexport.exporter.opening import open_source

    source = open_source("tiny-asr", parts="all")
    first, again, others = source.questions(3, 1), source.questions(3, 1), source.questions(3, 2)
    answers = [question.answer for question in first]
    assert answers == [question.answer for question in again] != [question.answer for question in others]
    for question in first:
        assert question.prompt == "" and question.input.shape == (SOUND.samples,)
        assert question.content.shape == (TOKENS,) and question.content.any() and not question.content.all()
    assert source.score(answers, answers) == 1
    assert source.score([*answers[:2], ""], answers) == pytest.approx(
        1 - len(answers[2].split()) / sum(map(len, map(str.split, answers)))
    )


@needs_espeak
def test_utterances_are_spoken_once_whether_their_voices_are_named_or_not() -> None:
    from tokexport.exporter.zoo.tiny_asr.evaluate import question_set
    from tokexport.exporter.zoo.tiny_asr.speech import VOICES

    assert question_set(2, 3) is question_set(2, 3, VOICES)
