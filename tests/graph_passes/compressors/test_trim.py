import numpy as np
import pytest
from body_runner import every_way
from properties import draw, draw_signals
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make

# Products with the text (2, 0): 2, 4, 6, 8, 10.
TOKENS = np.array([[1, 5], [2, 0], [3, 1], [4, 0], [5, 3]], np.float32)[None]
TEXT = np.array([[1, 0], [0, 0], [3, 0], [0, 0]], np.float32)[None]


@pytest.mark.parametrize(
    ("inverted", "kept", "mean", "assignment"),
    [
        # The two least like the text, and of the others the mean, at the place of the third.
        (True, [0, 1, 2], [[1, 5], [2, 0], [4, 4 / 3]], [0, 1, 2, 2, 2]),
        (False, [2, 3, 4], [[2, 2], [4, 0], [5, 3]], [0, 0, 0, 1, 2]),
    ],
)
def test_the_text_picks_and_the_rest_is_one_mean(inverted, kept, mean, assignment):
    method = make("trim", {"inverted": inverted})
    for way, got in every_way(method, Case(5, 2, 3), TOKENS, text=TEXT).items():
        assert got.kept_indices.tolist() == [kept], way
        np.testing.assert_allclose(got.tokens[0], mean, rtol=1e-6, err_msg=way)
        assert got.assignment.tolist() == [assignment], way
        assert got.sizes.tolist() == [[assignment.count(slot) for slot in range(3)]], way


def test_a_text_of_padding_keeps_the_first():
    for way, got in every_way(make("trim"), Case(5, 2, 4), TOKENS, text=0 * TEXT).items():
        assert got.kept_indices.tolist() == [[0, 1, 2, 3]], way
        assert got.sizes.tolist() == [[1, 1, 1, 2]], way


def test_the_mean_at_another_place_is_refused():
    method, case, rng = make("trim"), Case(25, 16, 9), np.random.default_rng(0)
    tokens, signals = draw("normal", rng, 1, 25, 16), draw_signals(method, case, rng, 1)
    right = every_way(method, case, tokens, **signals)["body"]
    assert compare(method, case, tokens, right, signals).ok
    # The mean takes the seat of a token that was kept, which goes into the mean instead.
    seat = int(right.sizes[0].argmax())
    sizes, assignment = np.roll(right.sizes, 1, 1), right.assignment.copy()
    moved = (seat + 1) % 9
    assignment[right.assignment == seat] = moved
    assignment[0, right.kept_indices[0, seat]], assignment[0, right.kept_indices[0, moved]] = seat, moved
    wrong = type(right)(right.tokens, right.kept_indices, sizes, assignment)
    agreement = compare(method, case, tokens, wrong, signals)
    assert not agreement.ok and agreement.regret > 1e-3, agreement


def test_wrong_requests():
    for keep in (1, 9):
        with pytest.raises(RequestError, match=r"outside 2\.\.8: one slot is for all tokens that are not kept"):
            make("trim").check(Case(9, 8, keep))
