"""Property tests that every method shares: what tokens are drawn, and what must hold for each of them."""

import dataclasses

import numpy as np
from body_runner import SIGNAL_DIMS, body_session
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import make

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


def draw_signals(compressor, case, rng, b):
    """Signals by name. Attention has few levels, so that ties are common; the last row of a text is padding."""
    drawn = {}
    for name in compressor.signals():
        dims = SIGNAL_DIMS[name](case)
        signal = rng.integers(0, 6, (b, *dims)) / 64 if len(dims) == 1 else rng.standard_normal((b, *dims))
        if name == "text":
            signal[:, -1] = 0
        drawn[name] = signal.astype(np.float32 if name.endswith("attention") else case.dtype)
    return drawn


def inputs(cases, kinds=KINDS):
    """What `check_agreement` takes: any of the cases with any kind of tokens."""
    return st.tuples(
        st.sampled_from(kinds),
        st.sampled_from(cases),
        st.sampled_from([1, 3]),
        st.sampled_from(["float32", "float16"]),
        st.booleans(),
        st.integers(0, 2**32 - 1),
    )


def check_agreement(method, params, drawn, **tolerances):
    """The body agrees with the reference: contract, decisions and values; returns what it gave.

    K = N is the identity where the method does not change the number of channels, and zeros come out of zeros.
    """
    kind, case, b, dtype, exact_ties, seed = drawn
    case = dataclasses.replace(case, dtype=dtype)
    compressor = make(method, params)
    rng = np.random.default_rng(seed)
    tokens = draw(kind, rng, b, case.tokens, case.dim).astype(dtype)
    signals = draw_signals(compressor, case, rng, b)
    got = body_session(compressor, case, exact_ties)(tokens, **signals)

    agreement = compare(compressor, case, tokens, got, signals, **tolerances)
    assert agreement.ok, agreement
    assert got.tokens.dtype == tokens.dtype
    return got


def check_batches(method, params, case, kind, seed):
    """Batch elements do not see each other."""
    compressor, rng = make(method, params), np.random.default_rng(seed)
    tokens = draw(kind, rng, 3, case.tokens, case.dim)
    tokens[1] = draw("massive", rng, 1, case.tokens, case.dim)[0]
    signals = draw_signals(compressor, case, rng, 3)
    together = body_session(compressor, case)(tokens, **signals)
    for i in range(3):
        alone = body_session(compressor, case)(tokens[i : i + 1], **{s: a[i : i + 1] for s, a in signals.items()})
        np.testing.assert_array_equal(together.kept_indices[i], alone.kept_indices[0])
        np.testing.assert_array_equal(together.assignment[i], alone.assignment[0])
        np.testing.assert_allclose(together.tokens[i], alone.tokens[0], rtol=1e-5, atol=1e-5)
