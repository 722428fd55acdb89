import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make


def directions(*degrees):
    """Tokens [1, N, 2] of different lengths, of which only the direction counts."""
    angles = np.deg2rad(degrees)
    lengths = 1 + np.arange(len(degrees)) % 3
    return (lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1))[None].astype(np.float32)


def test_worked_example():
    # 100 degrees has the farthest nearest neighbour (60 degrees away); then the farthest of all is 0, then 40.
    for way, got in every_way(make("divprune"), Case(5, 2, 3), directions(0, 30, 40, 100, 5)).items():
        assert got.kept_indices.tolist() == [[0, 2, 3]], way
        assert got.assignment.tolist() == [[0, -1, 1, 2, -1]], way
        assert got.sizes.tolist() == [[1, 1, 1]], way


def test_the_first_is_farthest_from_its_nearest_neighbour_not_from_all():
    # 180 is opposite to most, but has a neighbour at 175; the loneliest is 90.
    for way, got in every_way(make("divprune"), Case(5, 2, 1), directions(0, 10, 180, 175, 90)).items():
        assert got.kept_indices.tolist() == [[4]], way


def test_a_token_is_not_picked_twice():
    tokens = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [0, 2]], np.float32)[None]
    for way, got in every_way(make("divprune"), Case(5, 2, 4), tokens).items():
        assert got.kept_indices.tolist() == [[0, 1, 2, 3]], way


def test_tokens_of_zeros_are_as_far_as_orthogonal_ones():
    tokens = np.array([[1, 0], [0, 0], [1, 0], [-1, 0]], np.float32)[None]
    for way, got in every_way(make("divprune"), Case(4, 2, 2), tokens).items():
        assert got.kept_indices.tolist() == [[0, 1]], way


def test_keep_outside():
    with pytest.raises(RequestError, match=r"keep 10 is outside 1\.\.9"):
        make("divprune").check(Case(9, 8, 10))


def test_body_size():
    (function,) = body_model(make("divprune"), Case(576, 64, 128)).functions.values()
    assert len(function) < 450
