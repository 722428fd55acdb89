"""The body and the reference of one method of each kind, on tokens as many and as wide as CLIP-L/336 has them."""

import numpy as np
import pytest
from body_runner import SIGNAL_DIMS, body_session
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make

N, D, SINKS = 576, 1024, 8
METHODS = ["apet", "tome", "dpc_knn", "scope", "sparsevlm"]


def activations(case):
    """What a trained tower gives: alike tokens, neighbours more so, two massive channels, a few sinks; and signals."""
    rng = np.random.default_rng(0)
    things = rng.standard_normal((N // 12, D)).repeat(12, 0) + 0.4 * rng.standard_normal((N, D))
    tokens = 2 * rng.standard_normal(D) + things
    attention = rng.dirichlet(np.ones(N))
    sinks, channels = rng.choice(N, SINKS, replace=False), rng.choice(D, 2, replace=False)
    tokens[:, channels] += 200
    tokens[sinks[:, None], channels] *= 30
    attention[sinks] += 0.5 / SINKS
    keys = tokens @ rng.standard_normal((D, *SIGNAL_DIMS["keys"](case)[1:])) / D**0.5
    text = 0.02 * rng.standard_normal(SIGNAL_DIMS["text"](case))
    signals = {"cls_attention": attention / attention.sum(), "keys": keys, "text": text}
    return tokens[None], {name: array[None].astype(np.float32) for name, array in signals.items()}


@pytest.mark.parametrize("method", METHODS)
def test_body_agrees_with_the_reference(method):
    dtype = "float16" if method == "apet" else "float32"
    compressor, case = make(method), Case(N, D, 86, dtype, (24, 24))
    tokens, there = activations(case)
    tokens = tokens.astype(dtype)
    signals = {name: there[name] for name in compressor.signals()}
    got = body_session(compressor, case)(tokens, **signals)
    agreement = compare(compressor, case, tokens, got, signals)
    assert agreement.ok, agreement
