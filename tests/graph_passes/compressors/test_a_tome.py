import numpy as np
import pytest
import torch
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, Compressed, make


def tokens_only(ratio):
    return make("a_tome", {"metric": "tokens", "ratio": ratio})


def directions(*degrees):
    """Tokens [1, N, 2] of length 1."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)[None].astype(np.float32)


# Neighbours are 10, 70 and 5 degrees apart, and 1 degree where no pair begins.
EXAMPLE = directions(0, 10, 11, 81, 82, 87)


@pytest.mark.parametrize(
    ("ratio", "keep", "kept", "assignment"),
    [
        (0.5, 5, [0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 4]),
        (0.5, 4, [1, 2, 3, 5], [0, 0, 1, 2, 3, 3]),
        (0.5, 3, [1, 3, 5], [0, 0, 1, 1, 2, 2]),
        (0.5, 2, [3, 5], [0, 0, 0, 0, 1, 1]),
        (0.5, 1, [5], [0] * 6),
        # One at a time: at 0, 10, 11, 81, 84.5, the last alone; at 5, 11, 81, 84.5, whose last two are nearest.
        (0.2, 4, [1, 2, 3, 5], [0, 0, 1, 2, 3, 3]),
        (0.2, 3, [1, 2, 5], [0, 0, 1, 2, 2, 2]),
        (0.2, 2, [2, 5], [0, 0, 0, 1, 1, 1]),
    ],
)
def test_worked_example(ratio, keep, kept, assignment):
    for way, got in every_way(tokens_only(ratio), Case(6, 2, keep), EXAMPLE).items():
        assert got.kept_indices.tolist() == [kept], way
        assert got.assignment.tolist() == [assignment], way
        assert got.sizes.tolist() == [np.bincount(assignment).tolist()], way
        expected = [EXAMPLE[0, np.array(assignment) == slot].mean(0) for slot in range(keep)]
        np.testing.assert_allclose(got.tokens[0], expected, rtol=1e-5, atol=1e-6, err_msg=way)


def test_keys_are_compared_and_tokens_merged():
    tokens = np.array([1, 2, 4, 8], np.float32).reshape(1, 4, 1)
    keys = np.zeros((1, 4, 6), np.float32)
    keys[0, :, :2] = directions(0, 90, 85, 80)[0]
    for way, got in every_way(make("a_tome"), Case(4, 1, 3), tokens, keys=keys).items():
        assert got.assignment.tolist() == [[0, 1, 2, 2]], way
        assert got.tokens.tolist() == [[[1], [2], [6]]], way


def test_a_slot_of_three_counts_three_times_in_the_metric():
    # Three of 0 and one of 30 lie at 7.4 degrees, farther from 15 than 60 is from 64; without weights they lie at 15.
    tokens = directions(0, 0, 0, 30, 15, 60, 64)
    for way, got in every_way(tokens_only(0.2), Case(7, 2, 3), tokens).items():
        assert got.assignment.tolist() == [[0, 0, 0, 0, 1, 2, 2]], way


def test_equal_neighbours_go_by_the_lowest_index():
    for way, got in every_way(tokens_only(0.5), Case(8, 2, 6), np.ones((1, 8, 2), np.float32)).items():
        assert got.kept_indices.tolist() == [[1, 3, 4, 5, 6, 7]], way
        assert got.assignment.tolist() == [[0, 0, 1, 1, 2, 3, 4, 5]], way


def test_rounds_remove_a_share_and_one_at_least():
    assert make("a_tome", {"ratio": 0.25}).rounds(Case(100, 8, 40)) == [25, 18, 14, 3]
    assert make("a_tome").rounds(Case(4, 8, 1)) == [1, 1, 1]


def test_a_worse_outcome_is_regretted():
    tokens = torch.from_numpy(EXAMPLE)
    slots = torch.tensor([[0, 0, 1, 2, 3, 4]])
    wrong = Compressed(tokens[:, 1:], torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[2.0, 1, 1, 1, 1]]), slots)
    regret = tokens_only(0.5).replay(Case(6, 2, 5), tokens, wrong).regret
    assert regret.tolist() == pytest.approx([(np.cos(np.deg2rad(5)) - np.cos(np.deg2rad(10))) / 2], rel=1e-5)
    # Tokens 1 and 2 are nearest of all, but no pair.
    slots = torch.tensor([[0, 1, 1, 2, 3, 4]])
    never = Compressed(tokens[:, 1:], torch.tensor([[0, 2, 3, 4, 5]]), torch.tensor([[1.0, 2, 1, 1, 1]]), slots)
    assert tokens_only(0.5).replay(Case(6, 2, 5), tokens, never).regret.tolist() == [float("inf")]


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 0 is outside 1\.\.9"):
        make("a_tome").check(Case(9, 8, 0))
    with pytest.raises(RequestError, match=r"ratio 0\.6 is outside 0\.05\.\.0\.5"):
        make("a_tome", {"ratio": 0.6})


def test_body_size():
    (function,) = body_model(make("a_tome"), Case(1500, 64, 128)).functions.values()
    assert len(function) < 800
