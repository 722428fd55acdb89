import numpy as np
import pytest
import torch
from body_runner import every_way
from properties import draw, draw_signals
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.blocks import select

# Like the text, from the first to the last: 1, .8, .6, 0, -1, which is scaled to 1, .9, .8, .5, 0.
TOKENS = np.array([[5, 0], [4, 3], [3, 4], [0, 1], [-2, 0]], np.float32)[None]
TEXT = np.array([[2, 0], [0, 0], [0, 0], [0, 0]], np.float32)[None]


def kept(keep, *attention, params=None, text=TEXT):
    method = make("adafv", params)
    signals = {method.signals()[0]: np.array([attention], np.float32), "text": text}
    results = every_way(method, Case(5, 2, keep), TOKENS, **signals)
    (positions,) = {tuple(got.kept_indices[0].tolist()) for got in results.values()}
    return positions


def test_the_split_with_the_largest_product_wins():
    # m = 0: tokens 0 and 1, .1 * 1.9; m = 1: tokens 0 and 3, .65 * 1.5; m = 2: tokens 3 and 4, .9 * .5.
    assert kept(2, 0.05, 0.05, 0, 0.6, 0.3) == (0, 3)
    # .5 * 1.9, .9 * 1.5 and .9 * 1.5 again.
    assert kept(2, 0.4, 0.1, 0, 0.5, 0) == (0, 3)
    # .8 * 1.9 is more than .6 * 1.5: nothing goes by attention alone.
    assert kept(2, 0.4, 0.4, 0, 0.2, 0) == (0, 1)


def test_a_token_in_both_rankings_uses_one_slot():
    assert kept(3, 0.6, 0, 0, 0.4, 0) == (0, 1, 3)


def test_one_slot():
    # By likeness .2 * 1, by attention .5 * .5.
    assert kept(1, 0.2, 0, 0, 0.5, 0.3) == (3,)
    assert kept(1, 0.3, 0, 0, 0.5, 0.2) == (0,)


def test_no_attention_leaves_the_text_and_no_text_the_attention():
    assert kept(2, 0, 0, 0, 0, 0) == (0, 1)
    assert kept(2, 0, 0.1, 0, 0.3, 0.2, text=0 * TEXT) == (3, 4)


def test_without_cls_what_is_received_counts():
    received = {"attention": "received"}
    assert make("adafv", received).signals() == ("received_attention", "text")
    assert kept(2, 0.05, 0.05, 0, 0.6, 0.3, params=received) == (0, 3)


def test_another_split_is_refused():
    method, case, rng = make("adafv"), Case(25, 16, 9), np.random.default_rng(0)
    tokens, signals = draw("normal", rng, 1, 25, 16), draw_signals(method, case, rng, 1)
    worst = {**signals, "text": -signals["text"]}
    got = every_way(method, case, tokens, **worst)["body"]
    agreement = compare(method, case, tokens, got, signals)
    assert not agreement.ok and agreement.regret > 1e-3, agreement


def test_which_of_two_tokens_alike_a_split_took_may_decide_between_splits():
    # Likeness 1, 1, .8, 0. By likeness .5 * 1 or, where rounding prefers the copy, .1 * 1; by attention .55 * .8.
    method, case = make("adafv"), Case(4, 2, 1)
    tokens = np.array([[5, 0], [5, 0], [3, 4], [-5, 0]], np.float32)[None]
    signals = {"cls_attention": np.array([[0.5, 0.1, 0.55, 0]], np.float32), "text": TEXT}
    assert every_way(method, case, tokens, **signals)["reference"].kept_indices.tolist() == [[0]]
    for position, right in ((0, True), (2, True), (1, False), (3, False)):
        kept = torch.tensor([[position]])
        given = (torch.from_numpy(array) for array in (tokens, *signals.values()))
        x, attention, text = given
        replay = method.replay(case, x, select.selection(x, kept), cls_attention=attention, text=text)
        assert (float(replay.regret) <= 1e-5) is right, position


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 10 is outside 1\.\.9"):
        make("adafv").check(Case(9, 8, 10))
    with pytest.raises(RequestError, match="text_length 0 leaves no text"):
        make("adafv", {"text_length": 0})
