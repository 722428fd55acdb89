import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

TWO = make("dart", {"pivots": 2, "norm_of": "tokens"})


def directions(*degrees):
    """Tokens [1, N, 2] of length 1."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)[None].astype(np.float32)


def test_worked_example():
    # Pivots are 1 (at 0 degrees) and 4 (at 90). The first keeps 180, then 170; what is least like 90 is then 5.
    tokens = directions(170, 0, 180, 80, 90, 5)
    tokens[0, [1, 4]] *= 5
    for keep, kept in ((2, [1, 4]), (3, [1, 2, 4]), (4, [1, 2, 4, 5]), (5, [0, 1, 2, 4, 5])):
        for way, got in every_way(TWO, Case(6, 2, keep), tokens).items():
            assert got.kept_indices.tolist() == [kept], (keep, way)
            assert got.sizes.tolist() == [[1] * keep], (keep, way)
            np.testing.assert_array_equal(got.tokens[0], tokens[0, kept])


def test_pivots_are_visited_in_spatial_order():
    # The second pivot is longer. Both would keep 180 first; the earlier one gets it, and the other goes on with 130.
    tokens = directions(10, 180, 130, 0)
    tokens[0, 0] *= 3
    tokens[0, 3] *= 4
    for way, got in every_way(TWO, Case(4, 2, 3), tokens).items():
        assert got.kept_indices.tolist() == [[0, 1, 3]], way


def test_the_norm_of_a_key_makes_a_pivot_and_it_is_l1():
    tokens = directions(0, 180, 170, 90)
    keys = np.zeros((1, 4, 6), np.float32)
    # L1 norms 6 and 5; L2 would prefer the second.
    keys[0, 1], keys[0, 0, 0] = 1, 5
    made = make("dart", {"pivots": 1})
    assert made.signals() == ("keys",)
    for way, got in every_way(made, Case(4, 2, 2), tokens, keys=keys).items():
        assert got.kept_indices.tolist() == [[0, 1]], way
    for way, got in every_way(made, Case(4, 2, 1), tokens, keys=keys).items():
        assert got.kept_indices.tolist() == [[1]], way


def test_equal_tokens():
    for way, got in every_way(TWO, Case(5, 2, 4), np.ones((1, 5, 2), np.float32)).items():
        assert got.kept_indices.tolist() == [[0, 1, 2, 3]], way


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 3 is outside 4\.\.9: each of 4 pivots is kept"):
        make("dart").check(Case(9, 8, 3))
    with pytest.raises(RequestError, match="pivots 0 is not positive"):
        make("dart", {"pivots": 0})


def test_body_size():
    (function,) = body_model(make("dart"), Case(576, 64, 128)).functions.values()
    assert len(function) < 120
