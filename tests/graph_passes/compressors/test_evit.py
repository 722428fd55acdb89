import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make


def test_the_rest_is_summed_by_attention_at_the_place_of_the_next_in_rank():
    tokens = np.array([1, 2, 4, 8, 16], np.float32).reshape(1, 5, 1)
    attention = np.array([[0.1, 0.3, 0.2, 0.3, 0.1]], np.float32)
    for way, got in every_way(make("evit"), Case(5, 1, 3), tokens, cls_attention=attention).items():
        assert got.kept_indices.tolist() == [[1, 2, 3]], way
        np.testing.assert_allclose(got.tokens[0, :, 0], [2, 0.1 * 1 + 0.2 * 4 + 0.1 * 16, 8], rtol=1e-6, err_msg=way)
        assert got.sizes.tolist() == [[1, 1, 1]], way
        assert got.assignment.tolist() == [[-1, 0, 1, 2, -1]], way


def test_ties_go_to_the_lowest_index():
    tokens = np.array([1, 2, 4, 8, 16], np.float32).reshape(1, 5, 1)
    received = np.full((1, 5), 0.25, np.float32)
    method = make("evit", {"attention": "received"})
    for way, got in every_way(method, Case(5, 1, 2), tokens, received_attention=received).items():
        assert got.kept_indices.tolist() == [[0, 1]], way
        assert got.tokens[0, :, 0].tolist() == [1, 7.5], way
        assert got.assignment.tolist() == [[0, 1, -1, -1, -1]], way


def test_the_mean_of_the_rest_has_its_size():
    tokens = np.array([1, 2, 4, 8, 16], np.float32).reshape(1, 5, 1)
    attention = np.array([[0.1, 0.3, 0.2, 0.3, 0.1]], np.float32)
    for way, got in every_way(make("evit", {"rest": "mean"}), Case(5, 1, 3), tokens, cls_attention=attention).items():
        np.testing.assert_allclose(got.tokens[0, :, 0], [2, 7, 8], rtol=1e-6, err_msg=way)
        assert got.sizes.tolist() == [[1, 3, 1]], way
        assert got.assignment.tolist() == [[1, 0, 1, 2, 1]], way


@pytest.mark.parametrize("keep", [0, 1, 5, 6])
def test_a_slot_for_the_rest_needs_a_rest(keep):
    with pytest.raises(RequestError, match=rf"keep {keep} is outside 2\.\.4.*Use --keep 2 to 4"):
        make("evit").check(Case(5, 1, keep))


def test_body_size():
    (function,) = body_model(make("evit"), Case(576, 64, 128)).functions.values()
    assert len(function) < 60
