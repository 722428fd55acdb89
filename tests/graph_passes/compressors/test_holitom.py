import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

# Two windows of two frames of four places. In the first, places 1 and 2 stand still; in the second, 0 and 3 do.
X, Y, Z = [8, 0], [0, 6], [5, 5]
VIDEO = np.array([X, X, Z, Y, Y, X, Z, X, Y, X, Y, Z, Y, Z, X, Z], np.float32)[None]
ATTENTION = np.array([[3, 9, 9, 2, 1, 9, 9, 1, 9, 0, 1, 9, 9, 4, 0, 9]], np.float32)
WINDOWS = {"segment": 2, "static": 0.5}


def every_outcome(keep, params, tokens=VIDEO, grid=(4, 1, 4), attention=ATTENTION):
    case = Case(tokens.shape[1], tokens.shape[2], keep, grid=grid)
    return every_way(make("holitom", params), case, tokens, received_attention=attention).items()


def test_still_places_are_clustered_and_of_the_others_the_best_attended_stay():
    for way, got in every_outcome(6, WINDOWS):
        # A slot for each of the two still sets, at its centre; 4 is as well attended as 7.
        assert got.kept_indices.tolist() == [[0, 1, 4, 8, 10, 13]], way
        assert got.assignment.tolist() == [[0, 1, 1, -1, 2, 1, 1, -1, 3, -1, 4, 3, 3, 5, -1, 3]], way
        assert got.sizes.tolist() == [[1, 4, 1, 4, 1, 1]], way
        np.testing.assert_allclose(got.tokens[0, [1, 3]], [[6.8, 2], [2, 5.6]], rtol=1e-6, err_msg=way)
        np.testing.assert_array_equal(got.tokens[0, [0, 2, 4, 5]], VIDEO[0, [0, 4, 10, 13]], err_msg=way)


def test_beta_is_the_weight_of_the_centre():
    for way, got in every_outcome(6, {**WINDOWS, "beta": 1}):
        np.testing.assert_array_equal(got.tokens[0], VIDEO[0, got.kept_indices[0]], err_msg=way)


def test_slots_are_shared_out_over_still_and_moving_sets():
    for way, got in every_outcome(9, WINDOWS):
        assert got.kept_indices.tolist() == [[0, 1, 4, 7, 8, 10, 11, 13, 14]], way
        assert got.sizes.tolist() == [[1, 4, 1, 1, 2, 1, 2, 1, 1]], way


def test_the_largest_step_decides():
    # Place 0 turns by 40 and back; place 1 turns by 25 and 25. All pairs of three frames would prefer the first.
    angles = np.deg2rad([[0, 0], [40, 25], [0, 50]])
    tokens = np.stack([np.cos(angles), np.sin(angles)], 2).reshape(1, 6, 2).astype(np.float32)
    for way, got in every_outcome(4, {"static": 0.5}, tokens, (3, 1, 2), np.ones((1, 6), np.float32)):
        assert got.assignment.tolist() == [[0, 1, 2, 1, 3, 1]], way


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 5 is outside 6\.\.12"):
        make("holitom", WINDOWS).check(Case(16, 2, 5, grid=(4, 1, 4)))
    with pytest.raises(RequestError, match=r"beta 2\.0 is outside 0\.\.1"):
        make("holitom", {"beta": 2})
    with pytest.raises(RequestError, match=r"segment 0 is below 1"):
        make("holitom", {"segment": 0})


def test_body_size():
    (function,) = body_model(make("holitom"), Case(2304, 64, 576, grid=(16, 12, 12))).functions.values()
    assert len(function) < 500
