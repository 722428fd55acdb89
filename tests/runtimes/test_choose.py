"""Which token is chosen: what is suppressed, and the times of a transcript, as by transformers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toy_listener
from hypothesis import given, settings
from hypothesis import strategies as st
from tokexport.errors import GraphError
from tokexport.runtimes.answer import repeated
from tokexport.runtimes.bundle.manifest import SpeechRecord
from tokexport.runtimes.choose import Rules, TimeRules, choose

# Text, then the special ids, then times: the order of Whisper's vocabulary.
EOS, NO_TIMES, FIRST, V = 6, 9, 10, 20


def best(row: list[float], said: list[int], rules: Rules) -> int:
    return int(choose(np.array([row], np.float32), np.array([True]), [said], rules, "decode", "")[0])


def test_what_is_suppressed_is_never_chosen() -> None:
    rules = Rules(suppress=(3, 1))
    assert best([0, 5, 1, 9], [], rules) == 2
    assert best([0, 5, 1, 9], [2], rules) == 2


def test_what_may_not_begin_may_follow() -> None:
    rules = Rules(begin_suppress=(3,))
    assert best([0, 5, 1, 9], [], rules) == 1
    assert best([0, 5, 1, 9], [1], rules) == 3


def test_only_some_ids_are_candidates() -> None:
    assert best([9, 8, 1, 2], [], Rules(only=(2, 3))) == 3


def test_the_logits_of_the_graph_are_not_written_to() -> None:
    logits = np.array([[1, 2]], np.float32)
    choose(logits, np.array([True]), [[]], Rules(suppress=(1,)), "decode", "")
    np.testing.assert_array_equal(logits, [[1, 2]])


def test_nan_is_no_choice_and_says_when() -> None:
    with pytest.raises(GraphError, match=r"1 of 3 logits are NaN at token 2 \(output logits of decode\)\. Do this"):
        choose(np.array([[0, np.nan, 1]]), np.array([True]), [[5, 5]], Rules(), "decode", "Do this")
    assert best([0, 1, 2], [], Rules()) == 2


def test_the_rules_of_a_record_are_those_that_it_names() -> None:
    speech = SpeechRecord(start=1, no_timestamps=3, timestamps=4, latest_start=2)
    record = toy_listener.generation().model_copy(
        update={"suppress": [7], "begin_suppress": [8], "speech": speech, "eos": [2]}
    )
    assert Rules.of(record) == Rules((7,), (8,))
    assert Rules.of(record, timestamps=True) == Rules((7,), (8,), TimeRules(4, 3, 2, 2))


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ([], FIRST),  # It begins with a time, and at most with the second one.
        ([FIRST], 0),  # Behind the first time comes text.
        ([FIRST, 0], 19),
        ([FIRST, 0, 15], 19),  # Behind a time that ends a text comes another time, or the end.
        ([FIRST, 0, 15, 15], 0),
    ],
)
def test_times_stand_in_pairs(said: list[int], chosen: int) -> None:
    row = [5.0, 0, 0, 0, 0, 0, 1, 0, 0, 9, *[3.0] * 9, 4.0]
    row[FIRST] = 3.5
    assert best(row, said, Rules(times=TimeRules(FIRST, NO_TIMES, EOS, 1))) == chosen


@settings(max_examples=400, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), latest=st.sampled_from([None, 0, 1, 4]))
def test_times_are_those_of_transformers(data: Any, seed: int, latest: int | None) -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process").WhisperTimeStampLogitsProcessor
    rng = np.random.default_rng(seed)
    batch, length = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 6))
    # The processor takes what a model may have written: any text, times that do not go back.
    said = []
    for _ in range(batch):
        ids = rng.integers(0, V, length)
        ids[ids == NO_TIMES] = 0
        ids[ids >= FIRST] = np.sort(ids[ids >= FIRST])
        said.append(ids.tolist())
    scores = (rng.standard_normal((batch, V)) * rng.choice([0.1, 1, 5])).astype(np.float32)
    scores[rng.random((batch, V)) < 0.1] = -np.inf
    settings_of = SimpleNamespace(
        no_timestamps_token_id=NO_TIMES, eos_token_id=EOS, bos_token_id=EOS, max_initial_timestamp_index=latest
    )
    prompt = [[7, 8]] * batch
    theirs = process(settings_of, begin_index=2)(
        torch.tensor([[*begin, *ids] for begin, ids in zip(prompt, said)]), torch.tensor(scores)
    )
    ours = Rules(times=TimeRules(FIRST, NO_TIMES, EOS, latest)).apply(scores, said)
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([], None),
        ([1, 2, 3, 4, 5], None),
        ([7, 7, 7], None),
        ([1, 7, 7, 7, 7], ([7], 4)),
        ([9, *[1, 2, 3] * 5], ([1, 2, 3], 5)),
        ([9, *[1, 2] * 4, 3], None),
        ([1, 2, 3] * 3, None),
        # As pairs the same end fills no more.
        ([5] * 8, ([5], 8)),
    ],
)
def test_an_end_that_repeats_itself_is_found(ids: list[int], found: Any) -> None:
    assert repeated(ids) == found


@pytest.mark.parametrize("best", [np.inf, -np.inf])
def test_an_infinite_logit_is_no_choice(best: float) -> None:
    rows = np.full((2, 4), -np.inf, np.float32)
    rows[0, 2], rows[1, 3] = 1, best
    assert choose(rows, np.array([True, False]), [[], []], Rules(), "decode", "cure")[0] == 2
    with pytest.raises(GraphError, match=rf"logits is {best} at token 1: none can be chosen"):
        choose(rows, np.array([True, True]), [[], [7]], Rules(), "decode", "cure")


def test_rules_that_forbid_every_token_are_an_error() -> None:
    with pytest.raises(GraphError, match="none can be chosen"):
        choose(np.zeros((1, 3)), np.array([True]), [[]], Rules(suppress=(0, 1, 2)), "prefill", "cure")
