from fractions import Fraction

import numpy as np
import pytest
from tokexport.errors import RequestError
from tokexport.graph_passes.budget import check_budget, parse_ratio, ratio_text, tokens_kept, whole_keep


@pytest.mark.parametrize(
    ("n", "ratio", "kept"),
    [
        (576, "0.85", 86),
        (576, 0.85, 86),
        (144, "0.85", 21),
        (576, "8/9", 64),
        (576, Fraction(8, 9), 64),
        (10, 0.1, 9),
        (10, 0.9, 1),
        (1000, 0.29, 710),
    ],
)
def test_ratio_is_the_share_removed_read_exactly(n, ratio, kept):
    assert tokens_kept(n, ratio=ratio) == kept


def test_keep_is_taken_as_it_is():
    assert tokens_kept(576, keep=576) == 576
    assert tokens_kept(576, keep=1) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither ratio nor keep"),
        ({"ratio": 0.5, "keep": 3}, "both ratio and keep"),
        ({"keep": 0}, r"keep 0 is outside 1\.\.9"),
        ({"keep": 10}, r"keep 10 is outside 1\.\.9"),
        ({"ratio": 0.95}, "leaves no token of 9.*at most 8/9"),
    ],
)
def test_wrong_budgets(arguments, message):
    with pytest.raises(RequestError, match=message):
        tokens_kept(9, **arguments)


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 85, "1.0"])
def test_ratio_outside_the_open_interval(ratio):
    with pytest.raises(RequestError, match=r"outside \(0, 1\)"):
        parse_ratio(ratio)


def test_a_percentage_is_recognised():
    with pytest.raises(RequestError, match=r"For 85 percent write --ratio 0\.85"):
        parse_ratio(85)


@pytest.mark.parametrize("ratio", ["most", "1/0", "", "nan", "inf"])
def test_ratio_must_be_a_number(ratio):
    with pytest.raises(RequestError, match="is not a number"):
        parse_ratio(ratio)


@pytest.mark.parametrize("keep", [True, 5.0, "5", None, [5]])
def test_keep_must_be_a_whole_number(keep):
    with pytest.raises(RequestError, match="is not a whole number"):
        whole_keep(keep)


def test_keep_of_numpy_becomes_an_int():
    assert type(tokens_kept(9, keep=np.int64(5))) is int  # type: ignore[arg-type]


@pytest.mark.parametrize("keep", [0, -3])
def test_keep_is_refused_before_the_tokens_are_known(keep):
    with pytest.raises(RequestError, match=rf"keep {keep} leaves no token. Use --keep 1"):
        check_budget(ratio=None, keep=keep)


@pytest.mark.parametrize("ratio", ["1e-999999999", "9E+999999999"])
def test_a_huge_exponent_is_not_a_ratio(ratio):
    with pytest.raises(RequestError, match="is not a number"):
        parse_ratio(ratio)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(".9", "0.9"), ("0.9", "0.9"), ("0.90", "0.9"), (0.9, "0.9"), ("9e-1", "0.9"), ("16/18", "8/9"), ("0.85", "0.85")],
)
def test_one_ratio_has_one_name(ratio, text):
    assert ratio_text(ratio) == text
