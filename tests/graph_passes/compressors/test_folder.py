import numpy as np
import pytest
import torch
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.replays.bipartite import refold_regret

LLAVA = {"metric": "keys", "attention": "cls", "scale_by_size": False}
RECEIVED = {"metric": "keys", "attention": "received", "alpha": 0.01}


def directions(*degrees):
    """Tokens [1, N, 2] of length 1."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)[None].astype(np.float32)


# Even 0, 90, 40 find 5, 80, 5: 5, 10 and 35 degrees away.
EXAMPLE = directions(0, 5, 90, 80, 40, 200)


def test_one_round_that_removes_few_makes_slots_longer():
    factor = 1 + np.log(2)
    for way, got in every_way(make("folder"), Case(6, 2, 5), EXAMPLE).items():
        assert got.assignment.tolist() == [[0, 0, 1, 2, 3, 4]], way
        np.testing.assert_allclose(got.tokens[0, 0], EXAMPLE[0, :2].mean(0) * factor, rtol=1e-5, err_msg=way)
        np.testing.assert_allclose(got.tokens[0, 1:], EXAMPLE[0, 2:], rtol=1e-6, err_msg=way)


def test_one_round_that_removes_many_does_not():
    for way, got in every_way(make("folder"), Case(6, 2, 4), EXAMPLE).items():
        assert got.kept_indices.tolist() == [[1, 3, 4, 5]], way
        np.testing.assert_allclose(got.tokens[0, 0], EXAMPLE[0, :2].mean(0), rtol=1e-5, err_msg=way)


def test_folding_leaves_an_even_token_each_time_and_makes_slots_longer():
    # floor(5 / 2) merge first, so 40 is left; on 2.5, 85, 40, 200 degrees one more does: 40 is nearest to 85.
    for way, got in every_way(make("folder"), Case(6, 2, 3), EXAMPLE).items():
        assert got.kept_indices.tolist() == [[1, 3, 5]], way
        assert got.assignment.tolist() == [[0, 0, 1, 1, 1, 2]], way
        mean = EXAMPLE[0, 2:5].mean(0) * (1 + np.log(3))
        np.testing.assert_allclose(got.tokens[0, 1], mean, rtol=1e-5, err_msg=way)


def test_what_cls_looks_at_is_not_merged():
    # 0 is most similar to its partner, but attention of .01 costs 1 at alpha 1.
    attention = np.array([[0.01, 0, 0, 0, 0, 0]], np.float32)
    made = make("folder", {"attention": "cls", "alpha": 1, "scale_by_size": False})
    for way, got in every_way(made, Case(6, 2, 4), EXAMPLE, cls_attention=attention).items():
        assert got.kept_indices.tolist() == [[0, 1, 3, 5]], way
        assert got.assignment.tolist() == [[0, 1, 2, 2, 1, 3]], way
    weightless = make("folder", {"attention": "cls", "alpha": 0, "scale_by_size": False})
    for way, got in every_way(weightless, Case(6, 2, 4), EXAMPLE, cls_attention=attention).items():
        assert got.kept_indices.tolist() == [[1, 3, 4, 5]], way


def test_signals():
    assert make("folder").signals() == ()
    assert make("folder", LLAVA).signals() == ("cls_attention", "keys")
    assert make("folder", RECEIVED).signals() == ("received_attention", "keys")


def test_which_of_two_equally_similar_partners_it_was_may_decide_a_later_round():
    # 0 is 10 degrees from 1 and from 3. With 1, which 2 is like, it is 16.7 from 3 in the next round, and 5 and 6 are
    # nearer to each other; with 3 it is 15 from 1, and they merge.
    angles = torch.deg2rad(torch.tensor([0.0, 10, 10, -10, 100, 100, 116]))
    metric = torch.stack([angles.cos(), angles.sin()], 1)[None]
    results = [([1, 3, 6], [0, 0, 0, 1, 2, 2, 2], True), ([3, 5, 6], [0, 0, 0, 0, 1, 1, 2], True)]
    for kept, slots, right in [*results, ([1, 3, 6], [0, 0, 1, 1, 2, 2, 2], False)]:
        regret = refold_regret(metric, [3, 1], torch.tensor([kept]), torch.tensor([slots]))
        assert (float(regret) <= 1e-5) is right, (kept, slots, regret)


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 1 is outside 2\.\.9: folding stops at two tokens"):
        make("folder").check(Case(9, 8, 1))
    with pytest.raises(RequestError, match=r"alpha -1.0 is outside 0\.\.1000"):
        make("folder", {"alpha": -1})


def test_body_size():
    (function,) = body_model(make("folder", LLAVA), Case(576, 64, 128)).functions.values()
    assert len(function) < 240
