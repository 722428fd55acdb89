import numpy as np
import pytest
from body_runner import every_way
from tokexport.errors import RequestError
from tokexport.graph_passes import reference as module
from tokexport.graph_passes.compressors import Case, make

TOKENS = np.array([[[3, 0], [0, 1], [-9, 0], [4, 0], [0, -2]]], np.float32)


@pytest.mark.parametrize(("score", "kept"), [("norm", [2, 3]), ("distance_to_mean", [2, 3])])
def test_scores_of_the_tokens(score, kept):
    for way, got in every_way(make("topk", {"score": score}), Case(5, 2, 2), TOKENS).items():
        assert got.kept_indices.tolist() == [kept], way
        assert got.tokens.tolist() == [TOKENS[0, kept].tolist()], way
        assert got.sizes.tolist() == [[1, 1]], way
        assert got.assignment.tolist() == [[-1, -1, 0, 1, -1]], way


def test_distance_to_mean_is_not_the_norm():
    tokens = np.array([10, 10, 10, 0], np.float32).reshape(1, 4, 1)
    for way, got in every_way(make("topk", {"score": "distance_to_mean"}), Case(4, 1, 1), tokens).items():
        assert got.kept_indices.tolist() == [[3]], way


def test_cls_attention_decides_and_ties_go_to_the_lowest_index():
    attention = np.array([[0.1, 0.4, 0.1, 0.4, 0.1], [0.3, 0.3, 0.3, 0.3, 0.3]], np.float32)
    tokens = np.concatenate([TOKENS, -TOKENS])
    for way, got in every_way(make("topk"), Case(5, 2, 3), tokens, cls_attention=attention).items():
        assert got.kept_indices.tolist() == [[0, 1, 3], [0, 1, 2]], way
        assert got.tokens[1].tolist() == (-TOKENS[0, :3]).tolist(), way


def test_signals_depend_on_the_score():
    assert make("topk").signals() == ("cls_attention",)
    assert make("topk", {"score": "norm"}).signals() == ()


def test_a_missing_signal_is_named():
    torch = pytest.importorskip("torch")
    with pytest.raises(RequestError, match="cls_attention"):
        module.reference("topk", torch.from_numpy(TOKENS), keep=2)
