import numpy as np
import pytest
from body_runner import every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

FIRST = [1, 2, 3, 11]


def test_positions_are_the_same_for_ever():
    # Written down: bundles made by different versions of NumPy have to keep the same tokens.
    assert make("random").kept(Case(12, 1, 4)).tolist() == FIRST


def test_keeps_the_same_positions_in_every_way_and_batch_element():
    tokens = np.random.default_rng(0).standard_normal((3, 12, 2)).astype(np.float32)
    for way, got in every_way(make("random"), Case(12, 2, 4), tokens).items():
        assert got.kept_indices.tolist() == [FIRST] * 3, way
        assert np.array_equal(got.tokens, tokens[:, FIRST]), way
        assert got.sizes.tolist() == [[1] * 4] * 3, way
        assert got.assignment[2, FIRST].tolist() == [0, 1, 2, 3], way
        assert (got.assignment < 0).sum() == 3 * 8, way


def test_a_smaller_keep_is_a_subset_and_a_seed_changes_it():
    few, more = make("random").kept(Case(100, 1, 10)), make("random").kept(Case(100, 1, 30))
    assert set(few) < set(more)
    assert set(more) != set(make("random", {"seed": "1"}).kept(Case(100, 1, 30)))


def test_negative_seed():
    with pytest.raises(RequestError, match="seed -1 is negative"):
        make("random", {"seed": -1})
