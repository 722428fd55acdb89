import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

EVEN = {"picks": "uniform"}


def test_worked_example():
    # The middles of two halves are positions 1 and 4; the others go where they are nearest, wherever they stand: 4.2 to
    # 1, though it is above the mean of all, as 8 is.
    tokens = np.array([0, 1, 9, 4.2, 8, 1.5], np.float32).reshape(1, 6, 1)
    for way, got in every_way(make("nearest_merge", EVEN), Case(6, 1, 2), tokens).items():
        assert got.kept_indices.tolist() == [[1, 4]], way
        assert got.assignment.tolist() == [[0, 0, 1, 0, 1, 0]], way
        assert got.sizes.tolist() == [[4, 2]], way
        np.testing.assert_allclose(got.tokens[0, :, 0], [1.675, 8.5], rtol=1e-6, err_msg=way)


def test_what_only_counts_changes_no_pick():
    tokens = np.array([0, 1, 9, 2, 8, 1.5], np.float32).reshape(1, 6, 1)
    for way, got in every_way(make("nearest_merge", {**EVEN, "rest": "count"}), Case(6, 1, 2), tokens).items():
        assert got.tokens[0, :, 0].tolist() == [1, 8], way
        assert got.sizes.tolist() == [[4, 2]], way
        assert got.assignment.tolist() == [[0, 0, 1, 0, 1, 0]], way


def test_the_picks_are_divprunes_but_tokens_join_by_distance():
    # By direction (1, 0) and (0, 1) are picked, and (9, 8) is nearer to the first; the distance says the second.
    tokens = np.array([[1, 0], [0, 9], [9, 8], [1, 0.1]], np.float32)[None]
    picked = every_way(make("divprune"), Case(4, 2, 2), tokens)
    for way, got in every_way(make("nearest_merge"), Case(4, 2, 2), tokens).items():
        assert got.kept_indices.tolist() == picked[way].kept_indices.tolist() == [[0, 1]], way
        assert got.assignment.tolist() == [[0, 1, 1, 0]], way
        np.testing.assert_allclose(got.tokens[0], [[1, 0.05], [4.5, 8.5]], rtol=1e-6, err_msg=way)


def test_a_pick_stays_in_its_own_slot_beside_an_equal_one_and_ties_go_to_the_lowest():
    tokens = np.array([3, 3, 0, 3, 6, 6], np.float32).reshape(1, 6, 1)
    for way, got in every_way(make("nearest_merge", EVEN), Case(6, 1, 3), tokens).items():
        assert got.kept_indices.tolist() == [[1, 3, 5]], way
        assert got.assignment.tolist() == [[0, 0, 0, 1, 2, 2]], way


def test_what_is_equal_to_a_pick_loses_nothing():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((1, 4, 8)).astype(np.float32)
    for way, got in every_way(make("nearest_merge"), Case(9, 8, 4), points[:, [0, 1, 1, 2, 0, 3, 3, 3, 2]]).items():
        np.testing.assert_allclose(got.tokens, points, rtol=1e-6, err_msg=way)
        assert got.sizes.tolist() == [[2, 2, 2, 3]], way


def test_near_tokens_far_from_zero():
    tokens = 1000 + np.array([0, 0.25, 0.5, 2, 0.625, 1.75], np.float32).reshape(1, 6, 1).repeat(8, axis=2)
    for way, got in every_way(make("nearest_merge", EVEN), Case(6, 8, 3), tokens).items():
        assert got.assignment.tolist() == [[0, 0, 0, 1, 0, 2]], way


def test_keep_outside():
    with pytest.raises(RequestError, match=r"keep 10 is outside 1\.\.9"):
        make("nearest_merge").check(Case(9, 8, 10))


@pytest.mark.parametrize(("params", "nodes"), [({}, 460), (EVEN, 60)])
def test_body_size(params, nodes):
    (function,) = body_model(make("nearest_merge", params), Case(576, 64, 128)).functions.values()
    assert len(function) < nodes
