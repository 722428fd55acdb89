"""The gate numbers, and that they cannot be passed by agreeing with nothing."""

import numpy as np
import pytest
from tokexport.exporter.proof.metrics import compare

RNG = np.random.default_rng(0)
REFERENCE = RNG.standard_normal((1, 6, 16)).astype(np.float32)


def test_equal_tensors_pass():
    check = compare("head", "x", REFERENCE, REFERENCE.copy(), "fp32")
    assert check.ok and check.cosine == pytest.approx(1) and check.norm_ratio == pytest.approx(1)


def test_one_wrong_row_of_many_fails_although_the_whole_agrees():
    wide = RNG.standard_normal((1, 20000, 8)).astype(np.float32)
    got = wide.copy()
    got[0, 17] = -got[0, 17]
    assert np.dot(wide.ravel(), got.ravel()) / (np.linalg.norm(wide) ** 2) > 0.999
    assert not compare("tail", "x", wide, got, "fp16").ok


def test_wrong_scale_fails_although_the_cosine_is_one():
    check = compare("head", "x", REFERENCE, REFERENCE * np.float32(1.01), "fp32")
    assert not check.ok and check.cosine > 0.99999 and check.norm_ratio == pytest.approx(1.01)


def test_the_gate_depends_on_the_precision():
    got = REFERENCE * np.float32(1.005)
    assert [compare("head", "x", REFERENCE, got, p).ok for p in ("fp32", "fp16", "bf16")] == [False, True, True]


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_zero_or_constant_reference_fails(value):
    same = np.full((1, 4, 8), value, np.float32)
    check = compare("head", "x", same, same.copy(), "fp32")
    assert not check.ok and "prove nothing" in check.detail


def test_nan_fails_and_is_counted():
    got = REFERENCE.copy()
    got[0, 0, :3] = np.nan
    check = compare("head", "x", REFERENCE, got, "fp32")
    assert not check.ok and check.detail.startswith("3 NaN")


def test_another_shape_fails():
    assert "shape [1, 5, 16] instead of [1, 6, 16]" in compare("tail", "x", REFERENCE, REFERENCE[:, :5], "fp32").detail


def test_integers_must_be_equal():
    a = np.arange(6).reshape(1, 6)
    assert compare("tail", "i", a, a.copy(), "fp32").ok
    assert "1 of 6 integers differ" in compare("tail", "i", a, np.where(a == 3, 9, a), "fp32").detail


def test_a_row_that_must_vanish_may_not_come_alive():
    reference = REFERENCE.copy()
    reference[0, 2] = 0
    got = reference.copy()
    got[0, 2, 0] = 0.5
    assert compare("head", "x", reference, reference.copy(), "fp32").ok
    assert not compare("head", "x", reference, got, "fp32").ok


def test_nan_in_the_reference_fails():
    reference = REFERENCE.copy()
    reference[0, 0, 0] = np.inf
    check = compare("tail", "x", reference, REFERENCE, "fp32")
    assert not check.ok and "1 NaN or inf in the reference" in check.detail
