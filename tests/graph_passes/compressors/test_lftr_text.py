import numpy as np
import pytest
from body_runner import every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

TOKENS = np.array([[9, 0], [8, 1], [7, 2], [6, 3], [1, 9], [2, 0], [3, 0], [4, -9]], np.float32)[None]
# Means (1, 0) and (0, 1): padding does not count.
FIRST = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], np.float32)[None]
SECOND = np.array([[1, 1], [-1, 3], [0, -1], [0, 0]], np.float32)[None]


@pytest.mark.parametrize(
    ("grid", "text", "kept"),
    [
        (None, FIRST, [0, 1, 2]),
        (None, SECOND, [2, 3, 4]),
        ((2, 4), FIRST, [0, 1, 2]),
        # Two frames of four: one of three slots and two.
        ((2, 2, 2), FIRST, [0, 6, 7]),
        ((2, 2, 2), SECOND, [3, 4, 5]),
    ],
)
def test_each_frame_keeps_what_is_most_like_the_mean_of_the_text(grid, text, kept):
    for way, got in every_way(make("lftr_text"), Case(8, 2, 3, grid=grid), TOKENS, text=text).items():
        assert got.kept_indices.tolist() == [kept], way
        assert got.sizes.tolist() == [[1, 1, 1]], way
        assert (got.tokens[0] == TOKENS[0, kept]).all(), way


def test_the_grid_may_be_given():
    method = make("lftr_text", {"grid": "2x4x1"})
    for way, got in every_way(method, Case(8, 2, 2), TOKENS, text=FIRST).items():
        assert got.kept_indices.tolist() == [[0, 7]], way


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 0 is outside 1\.\.9"):
        make("lftr_text").check(Case(9, 8, 0))
    with pytest.raises(RequestError, match="needs a video, and the grid is 3x3"):
        make("lftr_text", {"grid": "3x3"}).check(Case(9, 8, 3))
