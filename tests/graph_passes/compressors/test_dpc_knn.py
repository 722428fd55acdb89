import numpy as np
import pytest
import torch
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.dpc_knn import square_distances
from tokexport.graph_passes.compressors.replays.dpc_knn import centres_regret, joined_regret, square_scale

PAIRS = make("dpc_knn", {"neighbours": 2})


def line(*places):
    """Tokens [1, N, 1]."""
    return np.array(places, np.float32).reshape(1, -1, 1)


def test_worked_example():
    # Nearest neighbours are 0, .5 and .3 away in three groups; of each the first is as dense and counts as denser.
    # Distances to a denser token: 20 for the densest, 10 for .5's first and 10 for .3's; 0, .5 and .3 for the second.
    tokens = line(10.5, 10, 0, 20.3, 20, 0)
    for way, got in every_way(PAIRS, Case(6, 1, 3), tokens).items():
        assert got.kept_indices.tolist() == [[0, 2, 3]], way
        assert got.assignment.tolist() == [[0, 0, 1, 2, 2, 1]], way
        assert got.sizes.tolist() == [[2, 2, 2]], way
        np.testing.assert_allclose(got.tokens[0, :, 0], [10.25, 0, 20.15], rtol=1e-6, err_msg=way)


def test_density_counts_besides_distance():
    # 9 is far from all, but so thin that the second of the dense group comes before it: exp(-(6^2) / 2) * 6 < .5.
    tokens = line(0, 0.5, 0.5, 9, 3)
    for way, got in every_way(PAIRS, Case(5, 1, 2), tokens).items():
        assert got.kept_indices.tolist() == [[0, 1]], way


def test_densities_that_underflow_still_have_an_order():
    # exp(-30^2 / 2) is 0 in float32, and so is every score of the paper; 0 and 30 are the densest.
    tokens = line(0, 500, 30, 90, 130, 460)
    for way, got in every_way(PAIRS, Case(6, 1, 2), tokens).items():
        assert got.kept_indices.tolist() == [[0, 2]], way


def test_a_centre_is_judged_by_how_wrong_distances_would_have_to_be():
    tokens = torch.from_numpy(line(10.5, 10, 0, 20.3, 20, 0))
    square = square_distances(tokens).double()
    scale = square_scale(tokens, square)
    assert centres_regret(square, scale, torch.tensor([[0, 2, 3]]), 2).tolist() == [0]
    assert 1e-3 < float(centres_regret(square, scale, torch.tensor([[0, 1, 2]]), 2)) < 1
    # 20 joined 10.5 and not 20.3; a centre joined another.
    nearest, far, other = ([0, 0, 1, 2, 2, 1], [0, 0, 1, 2, 0, 1], [0, 0, 1, 0, 2, 1])
    kept = torch.tensor([[0, 2, 3]] * 3)
    square, scale = square.expand(3, -1, -1), scale.expand(3, -1, -1)
    regret = joined_regret(square, scale, kept, torch.tensor([nearest, far, other]))
    assert regret[0] == 0 and 0.1 < regret[1] < 1 and regret[2] == float("inf")


def test_equal_tokens():
    for way, got in every_way(PAIRS, Case(5, 1, 3), line(4, 4, 4, 4, 4)).items():
        assert got.kept_indices.tolist() == [[0, 1, 2]], way
        assert got.assignment.tolist() == [[0, 1, 2, 0, 0]], way
        assert got.tokens.tolist() == [[[4]] * 3], way


def test_of_equally_dense_tokens_any_may_count_as_denser():
    # Every token is as dense as any other. From 0 on each is 2, 1.9, 1.8 and 1.8 from the one before, so 0 and 2 may be
    # the centres; from 7.5 on it is 1.8, 1.8, 1.9 and 2, so they may be 7.5 and 0, and never 7.5 and 5.7.
    tokens = torch.from_numpy(line(7.5, 5.7, 3.9, 0, 2))
    square = square_distances(tokens).double()
    for centres, right in (([3, 4], True), ([0, 3], True), ([0, 1], False)):
        regret = centres_regret(square, square_scale(tokens, square), torch.tensor([centres]), 1)
        assert (float(regret) <= 1e-5) is right, centres


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 0 is outside 1\.\.9"):
        make("dpc_knn").check(Case(9, 8, 0))
    with pytest.raises(RequestError, match="neighbours 5 is more than the 4 tokens"):
        make("dpc_knn").check(Case(4, 8, 2))
    with pytest.raises(RequestError, match="neighbours 0 is not positive"):
        make("dpc_knn", {"neighbours": 0})


def test_body_size():
    (function,) = body_model(make("dpc_knn"), Case(576, 64, 128)).functions.values()
    assert len(function) < 90
