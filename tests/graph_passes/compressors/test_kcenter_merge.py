import numpy as np
import pytest
import torch
from body_runner import body_model, every_way
from properties import draw
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, Compressed, make
from tokexport.graph_passes.compressors.blocks import replay


def test_worked_example():
    # From 0: the farthest is 10 (position 1), then 4 (position 3); 6 is as near to 4 as to nothing else, 8 to 10.
    tokens = np.array([0, 10, 1, 4, 6.5, 8], np.float32).reshape(1, 6, 1)
    for way, got in every_way(make("kcenter_merge"), Case(6, 1, 3), tokens).items():
        assert got.kept_indices.tolist() == [[0, 1, 3]], way
        np.testing.assert_allclose(got.tokens[0, :, 0], [0.5, 9, 5.25], rtol=1e-6, err_msg=way)
        assert got.sizes.tolist() == [[2, 2, 2]], way
        assert got.assignment.tolist() == [[0, 1, 0, 2, 2, 1]], way


def test_equally_near_goes_to_the_lowest_slot_not_to_the_first_pick():
    # Picked 2 first (largest norm), then 0; token 1 lies in the middle.
    tokens = np.array([-4, 1, 6], np.float32).reshape(1, 3, 1)
    for way, got in every_way(make("kcenter_merge", {"start": "max_norm"}), Case(3, 1, 2), tokens).items():
        assert got.kept_indices.tolist() == [[0, 2]], way
        assert got.assignment.tolist() == [[0, 0, 1]], way


def test_duplicates_are_distinct_centres_once_all_points_are_taken():
    tokens = np.array([7, 3, 7, 3, 3], np.float32).reshape(1, 5, 1)
    for way, got in every_way(make("kcenter_merge"), Case(5, 1, 4), tokens).items():
        assert got.kept_indices.tolist() == [[0, 1, 2, 3]], way
        assert got.assignment.tolist() == [[0, 1, 2, 3, 1]], way
        assert got.sizes.tolist() == [[1, 2, 1, 1]], way
        assert got.tokens[0, :, 0].tolist() == [7, 3, 7, 3], way


def test_merge_of_equal_tokens_loses_nothing():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((1, 4, 8)).astype(np.float32)
    which = np.array([0, 1, 1, 2, 0, 3, 3, 3, 2])
    for way, got in every_way(make("kcenter_merge"), Case(9, 8, 4), points[:, which]).items():
        assert got.kept_indices.tolist() == [[0, 1, 3, 5]], way
        np.testing.assert_allclose(got.tokens, points, rtol=1e-6, err_msg=way)
        assert got.sizes.tolist() == [[2, 2, 2, 3]], way


def test_small_distances_next_to_a_large_mean():
    # The expanded square would see distances of about 1e-4 as rounding of 1e6.
    tokens = 1000 + np.array([0, 0.25, 0.5, 2, 0.625], np.float32).reshape(1, 5, 1).repeat(8, axis=2)
    for way, got in every_way(make("kcenter_merge"), Case(5, 8, 3), tokens).items():
        assert got.kept_indices.tolist() == [[0, 3, 4]], way


def test_one_centre_is_the_mean_at_the_start():
    tokens = np.array([1, 2, 9], np.float32).reshape(1, 3, 1)
    for start, position in (("first", 0), ("max_norm", 2), ("farthest_from_mean", 2)):
        for way, got in every_way(make("kcenter_merge", {"start": start}), Case(3, 1, 1), tokens).items():
            assert got.kept_indices.tolist() == [[position]], (start, way)
            assert got.tokens.tolist() == [[[4]]], (start, way)


def test_keep_outside():
    with pytest.raises(RequestError, match=r"keep 0 is outside 1\.\.9"):
        make("kcenter_merge").check(Case(9, 8, 0))


def test_body_size():
    (function,) = body_model(make("kcenter_merge"), Case(576, 64, 128)).functions.values()
    assert len(function) < 460


def regret(tokens, kept, slots, **params):
    """Of an outcome for tokens [1, N, 1]."""
    x = torch.from_numpy(tokens)
    outcome = Compressed(x[:, : len(kept)], torch.tensor([kept]), torch.ones(1, len(kept)), torch.tensor([slots]))
    return make("kcenter_merge", params).replay(Case(x.shape[1], 1, len(kept)), x, outcome).regret.item()


def test_a_worse_outcome_is_regretted():
    tokens = np.array([0, 10, 1, 4, 6.5, 8], np.float32).reshape(1, 6, 1)
    assert regret(tokens, [0, 1, 3], [0, 1, 0, 2, 2, 1]) == 0
    assert regret(tokens, [0, 1, 4], [0, 1, 0, 2, 2, 1]) > 1e-2  # 6.5 is nearer to 10 than 4 is to 0
    assert regret(tokens, [0, 1, 3], [0, 1, 2, 2, 2, 1]) > 1e-2  # 1 is nearer to 0 than to 4
    assert regret(tokens, [0, 1, 3], [0, 1, 0, 2, 2, 2]) > 1e-2  # 8 is nearer to 10
    # The first token is a point, however small its distance is beside the norms.
    far = np.array([0, 0, 1e7], np.float32).reshape(1, 3, 1)
    assert regret(far, [0, 2], [0, 0, 1]) == 0
    assert regret(far, [1, 2], [0, 0, 1]) == np.inf
    assert regret(tokens, [0, 1], [0, 1, 0, 0, 1, 1], start="max_norm") == 0
    assert regret(tokens, [0, 5], [0, 1, 0, 0, 1, 1], start="max_norm") > 1e-2


def test_what_is_but_rounding_beside_a_large_token_is_a_point_or_not():
    # A body takes .9 for 0 at 1000, and picks .8 before it; PyTorch picks 1000 first.
    tokens = np.array([0, -0.5, 0.8, 1000, 1000.9, -1000], np.float32).reshape(1, 6, 1)
    got = every_way(make("kcenter_merge"), Case(6, 1, 4), tokens)
    assert got["reference"].kept_indices.tolist() == [[0, 3, 4, 5]]
    for way in ("body", "body with exact ties"):
        assert got[way].kept_indices.tolist() == [[0, 2, 4, 5]], way
    for outcome in got.values():
        assert regret(tokens, *(getattr(outcome, name)[0].tolist() for name in ("kept_indices", "assignment"))) < 1e-6


def test_more_picks_than_a_search_tries_are_followed_to_the_end(monkeypatch):
    monkeypatch.setattr(replay, "_TRIES", 3)
    tokens = draw("normal", np.random.default_rng(0), 1, 25, 5)
    case = Case(25, 5, 12)
    for way, got in every_way(make("kcenter_merge"), case, tokens).items():
        agreement = compare(make("kcenter_merge"), case, tokens, got)
        assert agreement.ok, (way, agreement)
