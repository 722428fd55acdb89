"""Property tests that every method shares: what tokens are drawn, and what must hold for each of them."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from body_runner import SIGNAL_DIMS, body_session
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from learned_weights import random_weights
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import OUTPUTS, Case, Compressed, base, compressor_class, make
from tokexport.graph_passes.compressors.base import weights
from tokexport.graph_passes.compressors.blocks.weights import ReadsWeights

KINDS = ["normal", "correlated", "near_duplicate", "duplicate", "constant", "zero", "massive", "sink", "integer"]
# Random layers make a little of much: the gates of half precision would judge the weights, not the body.
TAME = ["normal", "correlated", "duplicate", "integer"]
# No two tokens are alike, so that rounding decides nothing.
APART = ["normal", "massive", "sink"]
# Tokens without a grid, which most methods take.
LINES = [Case(13, 5, 1), Case(13, 5, 4), Case(13, 5, 13), Case(25, 16, 11), Case(24, 40, 23)]
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


def examples(which=lambda method, example: True):
    """Every built-in method with each of its examples, or with `which` of them, as parameters of a test."""
    methods = sorted(base.built_in())
    found = [(method, number, each) for method in methods for number, each in enumerate(own_examples(method))]
    return [pytest.param(method, one, id=f"{method}-{number}") for method, number, one in found if which(method, one)]


def starts_without_a_file(method, example):
    """Whether a method that reads trained weights has initial values of its own, with these parameters."""
    learned = issubclass(compressor_class(method), ReadsWeights)
    return learned and Subject(method, example, None, trained=False).takes(example.cases[0])


def own_examples(method):
    """Those of the class itself: a method that is a small change of another one has others than that."""
    return vars(compressor_class(method)).get("examples", ())


class Subject:
    """A method with the parameters of an example: what a property test is about.

    A method that reads trained weights gets random ones where `trained`, and its own initial values elsewhere.
    """

    def __init__(self, method, example, folder, *, trained=True):
        self.method, self.example, self.folder = method, example, folder
        self.trained = trained and issubclass(compressor_class(method), ReadsWeights)

    @functools.cached_property
    def cases(self):
        """Those of the example; without weights also those on a line that the method takes."""
        more = [] if self.trained else [case for case in LINES if self.takes(case)]
        return [*dict.fromkeys([*self.example.cases, *more])]

    def made(self, case):
        """The compressor for a case."""
        if not self.trained:
            return make(self.method, self.example.params)
        file = self.folder / f"{self.example.cases.index(dataclasses.replace(case, dtype='float32'))}.npz"
        if not file.exists():
            random_weights(self.method, self.example.params, case, file, spread=0.5)
        return make(self.method, {**self.example.params, "weights": str(file)})

    def takes(self, case):
        """Whether the method is defined for a case."""
        try:
            self.made(case).check(case)
            weights(self.made(case), case)
        except RequestError:
            return False
        return True


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


def check_agreement(subject, drawn):
    """The body agrees with the reference: contract, decisions and values."""
    kind, case, b, dtype, exact_ties, seed = drawn
    case = dataclasses.replace(case, dtype=dtype)
    compressor = subject.made(case)
    rng = np.random.default_rng(seed)
    tokens = draw(kind, rng, b, case.tokens, case.dim).astype(dtype)
    signals = draw_signals(compressor, case, rng, b)
    got = body_session(compressor, case, exact_ties)(tokens, **signals)

    agreement = compare(compressor, case, tokens, got, signals)
    assert agreement.ok, agreement
    assert got.tokens.dtype == tokens.dtype
    if kind == "zero" and not subject.trained:
        assert not got.tokens.any()
    if keeps_every_token_in_some_slot(compressor, case, tokens, signals):
        assert got.sizes.sum(1).tolist() == [case.tokens] * b


def keeps_every_token_in_some_slot(compressor, case, tokens, signals):
    extra = {name: torch.from_numpy(array) for name, array in {**signals, **weights(compressor, case)}.items()}
    sizes = compressor.reference(case, torch.from_numpy(tokens), **extra).sizes
    return (sizes.sum(1) == case.tokens).all()


def check_batches(subject, case, kind, seed):
    """Batch elements do not see each other."""
    compressor, rng = subject.made(case), np.random.default_rng(seed)
    tokens = draw(kind, rng, 3, case.tokens, case.dim)
    tokens[1] = draw("massive", rng, 1, case.tokens, case.dim)[0]
    signals = draw_signals(compressor, case, rng, 3)
    together = body_session(compressor, case)(tokens, **signals)
    for i in range(3):
        alone = body_session(compressor, case)(tokens[i : i + 1], **{s: a[i : i + 1] for s, a in signals.items()})
        same = all(
            (getattr(together, name)[i] == getattr(alone, name)[0]).all() for name in ("kept_indices", "assignment")
        )
        if not same and kind not in APART:
            # Products of other shapes round otherwise, which may decide between tokens that are almost equal.
            one = Compressed(*(getattr(together, name)[i : i + 1] for name in OUTPUTS))
            own = {name: array[i : i + 1] for name, array in signals.items()}
            assert compare(compressor, case, tokens[i : i + 1], one, own).ok
            continue
        np.testing.assert_array_equal(together.kept_indices[i], alone.kept_indices[0])
        np.testing.assert_array_equal(together.assignment[i], alone.assignment[0])
        np.testing.assert_allclose(together.tokens[i], alone.tokens[0], rtol=1e-5, atol=1e-5)
