import numpy as np
import pytest
from body_runner import body_model, every_way
from properties import draw, draw_signals
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make

ONE = {"clusters": 1, "recycled": 0.5}
# Along the text's first axis, from most to least: 5, 2, 1, 0, 3, 4.
TOKENS = np.array([[2, 0], [2.5, 1], [3, 0], [1, 5], [0.5, 5], [4, 0]], np.float32)[None]


def text(*rows):
    return np.array([[*rows, *[(0, 0)] * (4 - len(rows))]], np.float32)


def test_kept_as_they_are_and_a_cluster_of_the_best_others():
    # One rater; the two best stay. Of the four others the best three are 1, 0 and 3, whose densest is 0 or 1.
    for way, got in every_way(make("sparsevlm", ONE), Case(6, 2, 3), TOKENS, text=text((1, 0))).items():
        cluster = [slot for slot in range(3) if got.sizes[0, slot] == 3]
        assert len(cluster) == 1, way
        assert set(got.kept_indices[0].tolist()) >= {2, 5} and got.kept_indices[0, cluster[0]] in (0, 1, 3), way
        np.testing.assert_allclose(got.tokens[0, cluster[0]], TOKENS[0, [0, 1, 3]].mean(0), rtol=1e-6, err_msg=way)
        slots = got.assignment[0]
        assert slots[4] == -1 and (slots[[0, 1, 3]] == cluster[0]).all(), way
        assert (got.tokens[0, slots[[2, 5]]] == TOKENS[0, [2, 5]]).all(), way


def test_rows_above_the_mean_rate():
    # The first row has nearly all tokens; the second, which would rate 3 and 4 best, is below the mean.
    plain = make("sparsevlm", {"clusters": 0})
    tokens = np.array([[4, 0], [5, 0], [3, 0], [0, 9], [6, 0]], np.float32)[None]
    for way, got in every_way(plain, Case(5, 2, 2), tokens, text=text((1, 0), (0, 1))).items():
        assert got.kept_indices.tolist() == [[1, 4]], way
        assert got.assignment.tolist() == [[-1, 0, -1, -1, 1]], way
    # Rows of equal weight all rate.
    for way, got in every_way(plain, Case(5, 2, 2), tokens, text=text((0, 1), (0, 1))).items():
        assert got.kept_indices.tolist() == [[0, 3]], way


def test_padding_neither_rates_nor_counts():
    plain, tokens = make("sparsevlm", {"clusters": 0}), TOKENS
    padded = np.array([[[0, 0], [0, -1], [0, 0], [0, 0]]], np.float32)
    for way, got in every_way(plain, Case(6, 2, 3), tokens, text=padded).items():
        assert got.kept_indices.tolist() == [[0, 2, 5]], way
    for way, got in every_way(plain, Case(6, 2, 3), tokens, text=0 * padded).items():
        assert got.kept_indices.tolist() == [[0, 1, 2]], way


@pytest.mark.parametrize(
    ("case", "params", "counts"),
    [
        (Case(576, 8, 64), {}, (48, 159, 16)),
        (Case(576, 8, 64), {"clusters": 0}, (64, 0, 0)),
        (Case(576, 8, 64), {"clusters": 4, "recycled": 1.0}, (60, 516, 4)),
        (Case(13, 8, 4), {}, (3, 4, 1)),
    ],
)
def test_counts_are_the_released_ones(case, params, counts):
    assert make("sparsevlm", params).counts(case) == counts


@pytest.mark.parametrize("nudge", [-1e-6, 1e-6])
def test_which_of_two_equal_tokens_was_the_cluster_is_found_out(nudge):
    # The first two are rated alike; the one that does not stay is a cluster of its own, at the second only at a price.
    method, case = make("sparsevlm", {"clusters": 2, "recycled": 1.0}), Case(5, 2, 3)
    tokens = np.array([[2.7, 1.17], [2.7, 0], [1, 0], [1, 0.1], [1.9, 0]], np.float32)[None]
    nudged = tokens + np.array([0, nudge, 0, 0, 0], np.float32)[None, :, None]
    got = every_way(method, case, nudged, text=text((1, 0)))["body"]
    agreement = compare(method, case, tokens, got, {"text": text((1, 0))})
    assert agreement.ok, agreement


@pytest.mark.parametrize("keep", [9, 17])
def test_decisions_made_for_another_text_are_refused(keep):
    method, case, rng = make("sparsevlm"), Case(25, 16, keep), np.random.default_rng(0)
    tokens, signals = draw("normal", rng, 1, 25, 16), draw_signals(method, case, rng, 1)
    got = every_way(method, case, tokens, text=-signals["text"])["body"]
    assert compare(method, case, tokens, got, {"text": -signals["text"]}).ok
    agreement = compare(method, case, tokens, got, signals)
    assert not agreement.ok and agreement.regret > 1e-3, agreement


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"1 clusters do not fit into 1 slots.*clusters=0"):
        make("sparsevlm").check(Case(9, 8, 1))
    with pytest.raises(RequestError, match=r"recycled 2\.0 is outside"):
        make("sparsevlm", {"recycled": 2})
    with pytest.raises(RequestError, match="clusters -1 is negative"):
        make("sparsevlm", {"clusters": -1})


def test_body_size():
    (function,) = body_model(make("sparsevlm"), Case(576, 64, 128)).functions.values()
    assert len(function) < 180
