import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

LIKE = {"inverted": False}
# Cosines to the text (1, 0, 0, 0): 1, .8, .8, 5/13, 0, of tokens of any length.
TOKENS = np.array([[2, 0, 0, 0], [4, 3, 0, 0], [8, 6, 0, 0], [5, 0, 12, 0], [0, 0, 0, 5]], np.float32)[None]


def text(*rows):
    """Padded to the four rows of the tests' graphs."""
    padding = [(0,) * len(rows[0])] * (4 - len(rows))
    return np.array([[*rows, *padding]], np.float32)


def kept(params, keep, tokens=TOKENS, rows=((1, 0, 0, 0), (0, 0, 0, 0))):
    results = every_way(make("cdpruner", params), Case(*tokens.shape[1:], keep), tokens, text=text(*rows))
    (positions,) = {tuple(got.kept_indices[0].tolist()) for got in results.values()}
    return positions


def test_relevance_first_and_then_what_differs():
    # r is their cosine. After the first token the others add r^2 (1 - cosine^2): .230, .230, .126 and 0; then the
    # second of the two that are alike adds nothing.
    assert kept(LIKE, 1) == (0,)
    assert kept(LIKE, 2) == (0, 1)
    assert kept(LIKE, 3) == (0, 1, 3)


def test_what_adds_nothing_is_ranked_by_relevance():
    # The twin has r = .8, the orthogonal token r = 0 and adds nothing either.
    assert kept(LIKE, 4) == (0, 1, 2, 3)


def test_a_token_of_zeros_adds_nothing_but_is_ranked():
    tokens = np.array([[0, 0], [1, 0], [-1, 0], [-1, 0]], np.float32)[None]
    # Of zeros r = .5: behind token 1, and before its opposites, which have r = 0.
    assert kept(LIKE, 1, tokens, [(1, 0)]) == (1,)
    assert kept(LIKE, 2, tokens, [(1, 0)]) == (0, 1)


def test_the_released_sign_keeps_the_least_similar():
    assert kept({}, 1) == (4,)
    # r is 0, .2, .2, 8/13, 1, and all of the others are orthogonal to what is picked.
    assert kept({}, 2) == (3, 4)


def test_text_is_the_mean_of_its_rows_without_padding():
    # Twice along the first axis and once along the last: cosines 2/3, .53, .53, .26, 1/3.
    rows = [(1, 0, 0, 0), (0, 0, 0, 0), (7, 0, 0, 0), (0, 0, 0, 2)]
    assert kept(LIKE, 1, rows=rows) == (0,)
    assert kept(LIKE, 1, rows=[(0, 0, 0, 0), (0, 0, 0, 1)]) == (4,)
    assert kept(LIKE, 3, rows=rows) == kept(LIKE, 3, rows=[rows[0], rows[2], rows[3]]) == kept(LIKE, 3, rows=rows[::-1])


def test_a_text_of_padding_leaves_what_differs():
    # All r are 1: the first, then by distance alone.
    assert kept({}, 2, rows=[(0, 0, 0, 0)]) == kept(LIKE, 2, rows=[(0, 0, 0, 0)]) == (0, 4)


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 10 is outside 1\.\.9"):
        make("cdpruner").check(Case(9, 8, 10))
    with pytest.raises(RequestError, match="text_length 0 leaves no text"):
        make("cdpruner", {"text_length": 0})


def test_body_size():
    (function,) = body_model(make("cdpruner"), Case(576, 64, 128)).functions.values()
    assert len(function) < 1500
