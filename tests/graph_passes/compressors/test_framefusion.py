import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

# Three frames of two places. Place 0 turns by 90 degrees, then grows; place 1 stands still, then turns a little.
VIDEO = np.array([[1, 0], [0, 2], [0, 1], [0, 2], [0, 9], [1, 2]], np.float32)[None]


@pytest.mark.parametrize(
    ("keep", "kept", "assignment"),
    [
        # What grew is like what was before; of two that are equally like it, the earlier one goes.
        (5, [0, 1, 2, 4, 5], [0, 1, 2, 1, 3, 4]),
        (4, [0, 1, 2, 5], [0, 1, 2, 1, 2, 3]),
        (3, [0, 1, 2], [0, 1, 2, 1, 2, 1]),
        (2, [0, 1], [0, 1, 0, 1, 0, 1]),
        (6, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_worked_example(keep, kept, assignment):
    for way, got in every_way(make("framefusion"), Case(6, 2, keep, grid=(3, 1, 2)), VIDEO).items():
        assert got.kept_indices.tolist() == [kept], way
        assert got.assignment.tolist() == [assignment], way
        assert got.sizes.tolist() == [np.bincount(assignment).tolist()], way
        expected = [VIDEO[0, np.array(assignment) == slot].mean(0) for slot in range(keep)]
        np.testing.assert_allclose(got.tokens[0], expected, rtol=1e-6, err_msg=way)


def test_a_run_ends_where_a_token_stays():
    # One place: 1 is like 0, 2 is not like 1, 3 and 4 are like 2.
    tokens = np.array([[1, 0], [2, 0], [0, 1], [0, 2], [0, 3]], np.float32)[None]
    for way, got in every_way(make("framefusion", {"grid": "5x1x1"}), Case(5, 2, 2), tokens).items():
        assert got.kept_indices.tolist() == [[0, 2]], way
        assert got.tokens.tolist() == [[[1.5, 0], [0, 2]]], way
        assert got.sizes.tolist() == [[2, 3]], way


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 1 is less than the first frame.*--keep 2 to 6"):
        make("framefusion").check(Case(6, 2, 1, grid=(3, 1, 2)))
    with pytest.raises(RequestError, match="needs a video"):
        make("framefusion").check(Case(6, 2, 3, grid=(2, 3)))


def test_body_size():
    (function,) = body_model(make("framefusion"), Case(1152, 64, 288, grid=(8, 12, 12))).functions.values()
    assert len(function) < 120
