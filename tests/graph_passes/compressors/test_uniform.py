import numpy as np
import pytest
from body_runner import every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make


@pytest.mark.parametrize(
    ("n", "k", "kept"),
    [(9, 3, [1, 4, 7]), (10, 4, [1, 3, 6, 8]), (7, 1, [3]), (5, 4, [0, 1, 3, 4]), (4, 4, [0, 1, 2, 3])],
)
def test_middle_of_equal_parts(n, k, kept):
    tokens = np.arange(2 * n, dtype=np.float32).reshape(2, n, 1)
    for way, got in every_way(make("uniform"), Case(n, 1, k), tokens).items():
        assert got.kept_indices.tolist() == [kept, kept], way
        assert np.array_equal(got.tokens, tokens[:, kept]), way
        assert got.assignment[0, kept].tolist() == list(range(k)), way
        assert (got.assignment[0] < 0).sum() == n - k, way


@pytest.mark.parametrize("n", [1, 2, 17, 144, 729])
def test_every_count_is_reached_without_repeats(n):
    for k in range(1, n + 1):
        kept = make("uniform").kept(Case(n, 1, k))
        assert len(set(kept.tolist())) == k
        assert kept[0] >= 0
        assert kept[-1] < n


def test_keep_outside():
    with pytest.raises(RequestError, match=r"keep 10 is outside 1\.\.9"):
        make("uniform").check(Case(9, 8, 10))
