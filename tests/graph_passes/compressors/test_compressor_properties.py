import numpy as np
import pytest
from body_runner import body_session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
SHAPES = [(13, 5, 1), (13, 5, 4), (13, 5, 13), (25, 16, 11), (24, 40, 23)]
KINDS = ["normal", "correlated", "near_duplicate", "duplicate", "constant", "zero", "massive", "sink", "integer"]
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def draw(kind, rng, b, n, d):
    """Tokens [b, n, d] float32 of one kind."""
    x = rng.standard_normal((b, n, d))
    if kind == "correlated":
        x = rng.standard_normal((b, n, 2)) @ rng.standard_normal((2, d)) + 3 * rng.standard_normal(d)
    elif kind in ("near_duplicate", "duplicate"):
        centres = 10 * rng.standard_normal((b, 4, d))
        x = centres[:, rng.integers(0, 4, n)] + (1e-3 * x if kind == "near_duplicate" else 0)
    elif kind == "constant":
        x = np.broadcast_to(x[:, :1], x.shape)
    elif kind == "zero":
        x = np.zeros_like(x)
    elif kind == "massive":
        x[..., 1] += 300
        x[:, ::5, d - 1] *= 1000
    elif kind == "sink":
        x[:, n // 2] *= 200
    elif kind == "integer":
        x = rng.integers(-2, 3, (b, n, d))
    return np.ascontiguousarray(x, np.float32)


def legal(compressor, n, k):
    floor = compressor.basis if getattr(compressor, "basis_slots", "none") != "none" else 0
    return k > floor or k == n


inputs = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from(SHAPES),
    st.sampled_from([1, 3]),
    st.sampled_from(["float32", "float16"]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)


@pytest.mark.parametrize(("method", "params"), METHODS)
@given(drawn=inputs)
@QUICK
def test_body_agrees_with_the_reference(method, params, drawn):
    kind, (n, d, k), b, dtype, exact_ties, seed = drawn
    compressor = make(method, params)
    if not legal(compressor, n, k):
        k = n // 2
    rng = np.random.default_rng(seed)
    tokens = draw(kind, rng, b, n, d).astype(dtype)
    # Softmax values of few different levels, so that ties are common.
    attention = {name: (rng.integers(0, 6, (b, n)) / 64).astype(dtype) for name in compressor.signals()}
    case = Case(n, d, k, dtype)
    got = body_session(compressor, case, exact_ties)(tokens, **attention)

    agreement = compare(compressor, case, tokens, got, attention)
    assert agreement.ok, agreement

    assert got.tokens.dtype == tokens.dtype
    if k == n:
        assert np.array_equal(got.tokens, tokens)
    total = n if compressor.method.merges and getattr(compressor, "merge", True) else k
    assert got.sizes.sum(1).tolist() == [total] * b
    if kind == "zero":
        assert not got.tokens.any()


@pytest.mark.parametrize(("method", "params"), METHODS)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
@QUICK
def test_batch_elements_do_not_see_each_other(method, params, kind, seed):
    n, d, k = 25, 16, 11
    compressor, case = make(method, params), Case(n, d, k)
    rng = np.random.default_rng(seed)
    tokens = draw(kind, rng, 3, n, d)
    tokens[1] = draw("massive", rng, 1, n, d)[0]
    attention = {name: rng.random((3, n), np.float32) for name in compressor.signals()}
    together = body_session(compressor, case)(tokens, **attention)
    for i in range(3):
        alone = body_session(compressor, case)(tokens[i : i + 1], **{s: a[i : i + 1] for s, a in attention.items()})
        np.testing.assert_array_equal(together.kept_indices[i], alone.kept_indices[0])
        np.testing.assert_array_equal(together.assignment[i], alone.assignment[0])
        np.testing.assert_allclose(together.tokens[i], alone.tokens[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["normal", "correlated", "massive", "sink"])
def test_model_sized_tokens_agree_to_the_token(kind):
    compressor, case = make("apet"), Case(144, 256, 21)
    tokens = draw(kind, np.random.default_rng(0), 1, 144, 256)
    agreement = compare(compressor, case, tokens, body_session(compressor, case)(tokens))
    assert agreement.ok, agreement
    if kind != "correlated":
        assert agreement.flipped == 0
