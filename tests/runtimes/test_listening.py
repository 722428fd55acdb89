"""Bundles that listen: greedy generation with cross-attention on graphs made by hand, and what counts as a sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_bundle
import toy_listener
from PIL import Image
from tokexport.errors import RequestError
from tokexport.runtimes.generate import greedy
from tokexport.runtimes.load import load
from tokexport.runtimes.media.log_mel import input_features
from tokexport.runtimes.session import Session
from toy_bundle import NEW, K, P, V

pytest.importorskip("onnxruntime")
SOUND = np.sin(np.arange(1600, dtype=np.float32))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return load(toy_listener.write(tmp_path_factory.mktemp("listener") / "toy"), threads=1)


def test_every_value_reaches_its_graph() -> None:
    calls: list[tuple[str, dict[str, np.ndarray]]] = []
    seen: list[dict[str, np.ndarray]] = []
    left = iter([5, 6, 2])

    def run(role: str, /, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        calls.append((role, inputs))
        logits = np.zeros((1, V), np.float32)
        logits[0, next(left)] = 1
        made, slots = ("present", toy_listener.CAPACITY) if role == "prefill" else ("new", 1)
        caches = {f"{made}_{kind}_0": np.full((1, 1, slots, 1), len(calls), np.float16) for kind in ("key", "value")}
        crossed = {f"cross_{kind}_0": np.full(1, 40, np.float16) for kind in ("key", "value")}
        seen.append({name: value.copy() for name, value in inputs.items() if name.startswith("past_")})
        return {"logits": logits, **caches, **(crossed if role == "prefill" else {})}

    variant = toy_bundle.variant({})
    variant.generation = toy_listener.generation()
    encoded = {
        "tokens": np.full((1, K, 3), 7, np.float16),
        "kept_indices": np.array([[1, 3]]),
        "sizes": np.array([[3, 1]], np.float32),
    }
    answer, kept, sizes = greedy(run, variant, encoded, [1, 3, 4])
    assert answer == [5, 6]
    np.testing.assert_array_equal(kept, [1, 3])
    np.testing.assert_array_equal(sizes, [3, 1])
    assert [role for role, _ in calls] == ["prefill", "decode", "decode"]
    prefill, first, second = (inputs for _, inputs in calls)
    assert set(prefill) == {"input_ids", "tokens", "token_bias", "last_index"}
    np.testing.assert_array_equal(prefill["input_ids"], [[1, 3, 4, 0, 0]])
    np.testing.assert_array_equal(prefill["last_index"], [2])
    assert (prefill["tokens"] == 7).all()
    for step, (inputs, written) in enumerate(((first, 3), (second, 4)), 1):
        np.testing.assert_array_equal(inputs["write_index"], [written])
        # All of prefill, and the slice of each step behind it at the slot that the step was told.
        cache = [1] * 3 + [2] * (step - 1) + [1] * (toy_listener.CAPACITY - 2 - step)
        for name in ("past_key_0", "past_value_0"):
            np.testing.assert_array_equal(seen[step][name][0, 0, :, 0], cache)
        assert inputs["cross_key_0"] == inputs["cross_value_0"] == 40
    for inputs in (prefill, first, second):
        np.testing.assert_allclose(inputs["token_bias"], [[np.log(3), 0]], rtol=1e-6)


def test_the_answer_follows_the_rule_of_the_toy(session: Session) -> None:
    answer = session.generate(SOUND, "a")
    assert answer.text == "b c d e"
    np.testing.assert_array_equal(answer.kept_indices, [1, 3])
    np.testing.assert_array_equal(answer.sizes, [3, 1])


def test_a_bundle_of_schema_1_gives_the_same_transcript(tmp_path: Path, session: Session) -> None:
    old = load(toy_listener.write(tmp_path / "old", schema="1.0"), threads=1)
    for prompt in ("a", "a b", "b a c"):
        assert old.generate(SOUND, prompt).ids == session.generate(SOUND, prompt).ids


def test_without_a_prompt_it_begins_behind_bos(session: Session) -> None:
    # The rule gives <bos> + 1, which is <eos>.
    assert session.generate(SOUND).ids == []


def test_without_the_size_bias_the_rule_gives_others(tmp_path: Path) -> None:
    session = load(toy_listener.write(tmp_path / "off", size_bias=False), threads=1)
    # c - 1 is b; from there each decode adds 2 + exp(0) - 3 = 0 to the word before its own.
    assert session.generate(SOUND, "c").text == "b c b c"


def test_the_longest_prompt_leaves_all_the_room_to_the_answer(session: Session) -> None:
    assert len(session.generate(SOUND, "a " * (P - 1)).ids) == NEW
    with pytest.raises(RequestError, match=f"{P + 1} ids"):
        session.generate(SOUND, "a " * P)


def test_a_waveform_a_file_and_its_features_are_the_same_sound(session: Session, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", SOUND, 16000, subtype="FLOAT")
    heard = [SOUND, tmp_path / "a.wav", str(tmp_path / "a.wav"), input_features(SOUND, toy_listener.SOUND)]
    seen: list[np.ndarray] = []

    class Listening(type(session)):  # type: ignore[misc]
        def execute(self, role: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            seen.extend(feeds.values())
            return super().execute(role, feeds)

    listening = Listening(session.bundle, threads=1)
    for sound in heard:
        listening.encode(sound)
    for features in seen[1:]:
        np.testing.assert_array_equal(features, seen[0])
    assert np.ptp(seen[0]) > 0


def test_a_file_that_is_refused_is_named(session: Session, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", np.zeros(1601), 16000)
    soundfile.write(tmp_path / "b.wav", np.full(10, np.nan), 16000, subtype="FLOAT")
    for name, message in (("a.wav", r"at most 0\.1 s.*a\.wav"), ("b.wav", r"NaN or inf.*b\.wav")):
        with pytest.raises(RequestError, match=message):
            session.encode(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Image.new("RGB", (4, 4)), "Image is not a sound.*16000 Hz"),
        (np.zeros((4, 4, 3), np.uint8), r"uint8 \[4, 4, 3\].*Expected float32 \[1, 8, 10\]"),
        (np.zeros(1601, np.float32), r"at most 0\.1 s"),
        (np.zeros((1, 8, 11), np.float32), r"float32 \[1, 8, 10\]"),
    ],
)
def test_other_things_are_refused(session: Session, given: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        session.encode(given)
