"""The check of what a whole model says, on graphs and a model's own code made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tokexport.exporter.proof.agreement import answers_again
from tokexport.exporter.proof.generation import answer_probes, check_answers
from tokexport.exporter.sources.source import Answered
from tokexport.runtimes.bundle.manifest import CompressionRecord, SeamRecord, Variant


class Said:
    """A model whose own code says given ids, each with these scores."""

    def __init__(self, ids, scores):
        self.ids, self.scores = ids, scores

    def proof_prompt(self):
        return [1]

    def own_answer(self, encoded, token_bias, limit):
        self.bias = token_bias
        return Answered(self.ids, np.array(self.scores, np.float32))


def variant(size_bias=True, attention="cross"):
    seam = SeamRecord(kind="encoder_output", graph="encoder", tensor="t")
    step = CompressionRecord(method="m", ratio="0.5", tokens_in=4, tokens_out=2, size_bias=size_bias, seam=seam)
    sizes = {"image_span": (0, 2), "tokens_in": 4, "prompt_length": 2, "kv_capacity": [8], "max_new_tokens": 3}
    record = {"attention": attention, **sizes, "vocabulary": 4, "bos": 1, "pad": 0, "eos": [3]}
    return Variant(name="v", compression=[step], graphs={}, generation=record)


def judged(source, encoded, wholes, logits, *, size_bias=True, attention="cross"):
    """The check of graphs that choose by `logits`, one row after the other."""
    rows = iter(logits)

    def runner(role):
        def run(inputs):
            if role == "embed":
                return {"inputs_embeds": np.zeros((1, 4, 2), np.float32)}
            cache = np.zeros((1, 1, 8, 2), np.float32)
            made = {"present_key_0": cache, "present_value_0": cache} if role == "prefill" else {
                "new_key_0": cache[:, :, :1], "new_value_0": cache[:, :, :1]
            }  # fmt: skip
            return {"logits": np.array([next(rows)], np.float32), **made}

        return run

    found = variant(size_bias, attention)
    probes = answer_probes(source, found, encoded, wholes)
    (check,) = check_answers(probes, found, {role: role for role in ("embed", "prefill", "decode")}, runner, "fp32")
    return check


def test_prefill_and_decode_are_never_in_memory_together():
    """Each holds all the weights of the language model."""
    alive, together = set(), []

    class Graph:
        def __init__(self, role):
            self.role = role
            alive.add(role)
            together.append(set(alive))

        def __del__(self):
            alive.discard(self.role)

        def __call__(self, inputs):
            cache = np.zeros((1, 1, 8, 2), np.float32)
            names = ("new_key_0", "new_value_0") if self.role == "decode" else ("present_key_0", "present_value_0")
            values = cache[:, :, :1] if self.role == "decode" else cache
            return {"logits": np.array([SCORES[0]], np.float32)} | dict.fromkeys(names, values)

    probes = answer_probes(Said([2, 2, 2], [SCORES[0]] * 3), variant(), [OWN, OWN], [])
    (check,) = check_answers(probes, variant(), {"prefill": "prefill", "decode": "decode"}, Graph, "fp32")
    assert check.ok and "6 tokens of 2 answers" in check.detail
    assert together == [{"prefill"}, {"decode"}]


OWN = {
    "tokens": np.ones((1, 2, 3), np.float32),
    "kept_indices": np.array([[0, 2]]),
    "sizes": np.array([[1, 3]], np.float32),
}
SCORES = [[0, 0, 9, 0], [0, 9, 0, 0], [0, 0, 0, 9]]


def test_an_answer_and_its_scores_are_made_in_one_pass():
    ran = []

    def runner(role):
        def run(inputs):
            cache = np.zeros((1, 1, 8, 2), np.float32)
            names = ("new_key_0", "new_value_0") if role == "decode" else ("present_key_0", "present_value_0")
            ran.append(role)
            values = cache[:, :, :1] if role == "decode" else cache
            return {"logits": np.array([SCORES[len(ran) - 1]], np.float32)} | dict.fromkeys(names, values)

        return run

    probes = answer_probes(Said([0, 0, 0], SCORES), variant(), [OWN], [])
    (again,) = answers_again(probes, variant(), {"prefill": "prefill", "decode": "decode"}, runner)
    assert ran == ["prefill", "decode", "decode"]
    assert list(again.expected["ids"]) == [2, 1, 3]
    assert again.expected["near"][:, 0].tolist() == [2, 1, 3] and again.expected["scores"][:, 0].tolist() == [9, 9, 9]


def test_equal_answers_pass_with_their_end():
    source = Said([2, 1, 3], SCORES)
    found = judged(source, [OWN], [OWN], SCORES)
    assert found.ok and found.cosine == 1 and found.detail.startswith("3 tokens of 1 answers")
    np.testing.assert_allclose(source.bias, np.log([[1, 3]]), rtol=1e-6)


def test_without_size_bias_the_models_own_code_gets_none_either():
    source = Said([2, 1, 3], SCORES)
    judged(source, [OWN], [OWN], SCORES, size_bias=False)
    assert not source.bias.any()


def test_another_token_fails_and_is_named():
    found = judged(Said([2, 2, 3], [SCORES[0], [0, 2, 9, 0], SCORES[2]]), [OWN], [OWN], SCORES)
    assert not found.ok and "input 0: token 1 is 1 and not 2, whose score is 7 higher" in found.detail


def test_an_answer_that_ends_too_early_or_too_late_fails():
    early = judged(Said([2, 1, 2], [*SCORES[:2], SCORES[0]]), [OWN], [OWN], SCORES)
    late = judged(Said([2, 3], [SCORES[0], SCORES[2]]), [OWN], [OWN], SCORES)
    assert not early.ok and not late.ok


def test_a_near_tie_is_counted_and_what_follows_is_not_compared():
    tie = [0, 9, 9.001, 0]
    found = judged(Said([2, 2, 0], [SCORES[0], tie, [9, 0, 0, 0]]), [OWN], [OWN], SCORES)
    assert found.ok and found.flipped == 1 and "1 answers not compared to their end" in found.detail


def test_of_each_step_the_likeliest_tokens_and_the_largest_score_are_kept():
    rows = np.full((1, 30), -np.inf, np.float32)
    rows[0, 5:25] = [-50, *range(19)]
    sizes = {"image_span": (0, 2), "tokens_in": 2, "prompt_length": 2, "kv_capacity": [8], "max_new_tokens": 3}
    record = {"attention": "cross", **sizes, "vocabulary": 30, "bos": 1, "pad": 0, "eos": [3]}
    found = Variant(name="v", compression=[], graphs={}, generation=record)
    (probe,) = answer_probes(Said([24], rows), found, [OWN], [])
    assert probe.expected["near"].tolist() == [[24, 23, 22, 21, 20, 19, 18, 5]]
    assert probe.expected["scores"].tolist() == [[18, 17, 16, 15, 14, 13, 12, -50]]
    assert probe.expected["ids"].tolist() == [24] and probe.method == {"prompt": [1], "limit": 3, "own_picks": False}


@pytest.mark.parametrize("flipped", [{"kept_indices": np.array([[0, 3]])}, {"sizes": np.array([[2, 2]], np.float32)}])
def test_where_rounding_flipped_a_pick_the_graphs_own_tokens_are_fed(flipped):
    other = {**OWN, "sizes": np.array([[1, 3.0001]], np.float32), **flipped}
    source = Said([2, 1, 3], SCORES)
    found = judged(source, [OWN], [other], SCORES)
    assert found.ok and "1 inputs as the graph compressed them" in found.detail
    np.testing.assert_array_equal(source.bias, np.log(OWN["sizes"]))


def test_the_first_scores_are_compared_too_where_words_are_the_same():
    """A prefill that is a little off may say the same words."""
    said, off = Said([2, 2, 2], [SCORES[0]] * 3), [[score + 0.02 * max(SCORES[0]) for score in SCORES[0]]]
    right = judged(said, [OWN], [], [SCORES[0]] * 3, attention="self")
    assert right.ok, right.detail
    wrong = judged(said, [OWN], [], [*off, SCORES[0], SCORES[0]], attention="self")
    assert not wrong.ok and "input 0: the first scores are" in wrong.detail
