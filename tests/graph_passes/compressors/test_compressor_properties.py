import numpy as np
import pytest
from body_runner import body_session
from hypothesis import given
from hypothesis import strategies as st
from properties import KINDS, QUICK, check_agreement, check_batches, draw, inputs
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make

METHODS = [
    ("apet", {"basis": 3}),
    ("apet", {"basis": 3, "basis_slots": "none"}),
    ("apet", {"basis": 3, "basis_slots": "blend", "start": "max_norm"}),
    ("apet", {"basis": 3, "merge": False}),
    ("apet", {"basis": 3, "merge": False, "basis_slots": "none"}),
    ("kcenter_merge", {}),
    ("kcenter_merge", {"start": "max_norm"}),
    ("topk", {"score": "cls_attention"}),
    ("topk", {"score": "norm"}),
    ("topk", {"score": "distance_to_mean"}),
    ("random", {"seed": 1}),
    ("uniform", {}),
]
CASES = [Case(13, 5, 1), Case(13, 5, 4), Case(13, 5, 13), Case(25, 16, 11), Case(24, 40, 23)]


def legal(compressor, case):
    floor = compressor.basis if getattr(compressor, "basis_slots", "none") != "none" else 0
    return case.keep > floor or case.keep == case.tokens


@pytest.mark.parametrize(("method", "params"), METHODS)
@given(data=st.data())
@QUICK
def test_body_agrees_with_the_reference(method, params, data):
    compressor = make(method, params)
    drawn = data.draw(inputs([case for case in CASES if legal(compressor, case)]))
    kind, case, b, *_ = drawn
    got = check_agreement(method, params, drawn)
    total = case.tokens if compressor.method.merges and getattr(compressor, "merge", True) else case.keep
    assert got.sizes.sum(1).tolist() == [total] * b
    if kind == "zero":
        assert not got.tokens.any()


@pytest.mark.parametrize(("method", "params"), METHODS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_tokens_kept_is_the_identity(method, params, dtype):
    tokens = draw("normal", np.random.default_rng(0), 2, 13, 5).astype(dtype)
    compressor, case = make(method, params), Case(13, 5, 13, dtype)
    signals = {name: np.zeros((2, 13), np.float32) for name in compressor.signals()}
    assert np.array_equal(body_session(compressor, case)(tokens, **signals).tokens, tokens)


@pytest.mark.parametrize(("method", "params"), METHODS)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
@QUICK
def test_batch_elements_do_not_see_each_other(method, params, kind, seed):
    check_batches(method, params, Case(25, 16, 11), kind, seed)


@pytest.mark.parametrize("kind", ["normal", "correlated", "massive", "sink"])
def test_model_sized_tokens_agree_to_the_token(kind):
    compressor, case = make("apet"), Case(144, 256, 21)
    tokens = draw(kind, np.random.default_rng(0), 1, 144, 256)
    agreement = compare(compressor, case, tokens, body_session(compressor, case)(tokens))
    assert agreement.ok, agreement
    if kind != "correlated":
        assert agreement.flipped == 0
