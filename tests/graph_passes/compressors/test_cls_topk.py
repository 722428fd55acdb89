import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

ATTENTION = np.array([[0.1, 0.4, 0.1, 0.4, 0.1], [0.3, 0.3, 0.3, 0.3, 0.3]], np.float32)


@pytest.mark.parametrize("attention", ["cls", "received"])
def test_the_highest_attention_stays_in_spatial_order_and_ties_go_to_the_lowest_index(attention):
    method, signal = make("cls_topk", {"attention": attention}), f"{attention}_attention"
    tokens = np.arange(10, dtype=np.float32).reshape(2, 5, 1)
    assert method.signals() == (signal,)
    for way, got in every_way(method, Case(5, 1, 3), tokens, **{signal: ATTENTION}).items():
        assert got.kept_indices.tolist() == [[0, 1, 3], [0, 1, 2]], way
        assert got.tokens[..., 0].tolist() == [[0, 1, 3], [5, 6, 7]], way
        assert got.sizes.tolist() == [[1, 1, 1]] * 2, way
        assert got.assignment.tolist() == [[0, 1, -1, 2, -1], [0, 1, 2, -1, -1]], way


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 6 is outside 1\.\.5"):
        make("cls_topk").check(Case(5, 1, 6))
    with pytest.raises(RequestError, match="attention of method 'cls_topk' is 'last'"):
        make("cls_topk", {"attention": "last"})


def test_body_size():
    (function,) = body_model(make("cls_topk"), Case(576, 64, 128)).functions.values()
    assert len(function) < 50
