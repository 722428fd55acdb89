import numpy as np
import pytest
import torch
from body_runner import every_way
from properties import draw, draw_signals
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.blocks import select

TEXT = np.array([[3, 0], [0, 0], [0, 0], [0, 0]], np.float32)[None]


def angles(*cosines):
    """Tokens [1, N, 2] of these cosines with the text, of different lengths."""
    c = np.array(cosines)
    return (np.stack([c, np.sqrt(1 - c * c)], 1) * (1 + np.arange(len(c)))[:, None])[None].astype(np.float32)


def kept(keep, second, *cosines):
    method, tokens = make("speechprune", {"second": second}), angles(*cosines)
    results = every_way(method, Case(len(cosines), 2, keep), tokens, text=TEXT)
    (positions,) = {tuple(got.kept_indices[0].tolist()) for got in results.values()}
    return positions


def test_seconds_share_the_slots_by_their_likeness():
    # Sums .8 and 0: p = .69 and .31, so two of four slots, one, and what is left to the first.
    assert kept(4, 4, 0.15, 0.4, 0.2, 0.05, -0.6, 0.1, 0.4, 0.1) == (0, 1, 2, 6)
    # Alike: two each, whatever the tokens of the other second are like.
    assert kept(4, 4, 0.9, 0.8, 0.7, 0.6, 0.9, 0.8, 0.7, 0.6) == (0, 1, 4, 5)


def test_slots_left_by_rounding_go_to_the_largest_share():
    # p = .40, .33, .27 of 4: one each, and the fourth to the first second.
    assert kept(4, 2, 0.6, 0.4, 0.5, 0.3, 0.35, 0.25) == (0, 1, 2, 4)


def test_a_second_with_more_slots_than_tokens_leaves_them_to_the_best_of_all():
    # p = .84 for the first second, four slots for two tokens; the others go to .5 and .4, wherever they are.
    assert kept(4, 2, 1.0, 1.0, -0.9, 0.4, -1.0, -0.9, 0.5, -1.0) == (0, 1, 3, 6)


def test_the_last_second_may_be_shorter():
    assert make("speechprune").lengths(Case(60, 4, 9)) == [25, 25, 10]
    assert kept(2, 3, 0.1, 0.2, 0.0, 0.3) == (1, 3)


@pytest.mark.parametrize("keep", [9, 17])
def test_decisions_made_for_other_tokens_are_refused(keep):
    method, case, rng = make("speechprune", {"second": 5}), Case(25, 16, keep), np.random.default_rng(0)
    made_for, tokens = (draw("normal", rng, 1, 25, 16) for _ in range(2))
    signals = draw_signals(method, case, rng, 1)
    other = every_way(method, case, made_for, **signals)["body"]
    got = type(other)(tokens[:, other.kept_indices[0]], other.kept_indices, other.sizes, other.assignment)
    agreement = compare(method, case, tokens, got, signals)
    assert not agreement.ok and agreement.regret > 1e-3, agreement


def test_what_rounding_leaves_may_go_to_either_of_equal_seconds():
    method, x = make("speechprune", {"second": 2}), torch.from_numpy(angles(0.5, 0.4, 0.5, 0.4))
    for positions, right in (([0, 1, 2], True), ([0, 2, 3], True), ([0, 1, 3], False), ([1, 2, 3], False)):
        got = select.selection(x, torch.tensor([positions]))
        regret = method.replay(Case(4, 2, 3), x, got, torch.from_numpy(TEXT)).regret
        assert (float(regret) <= 1e-5) is right, positions


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 10 is outside 1\.\.9"):
        make("speechprune").check(Case(9, 8, 10))
    with pytest.raises(RequestError, match="second 0 is below 1"):
        make("speechprune", {"second": 0})
