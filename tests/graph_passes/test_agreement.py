import dataclasses
import re

import numpy as np
import pytest
import torch
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import OUTPUTS, Case, make

N, D, K = 30, 8, 12
CASE = Case(N, D, K)
METHODS = [
    ("apet", {"basis": 4}),
    ("apet", {"basis": 4, "basis_slots": "none"}),
    ("apet", {"basis": 4, "basis_slots": "blend"}),
    ("apet", {"basis": 4, "merge": False}),
    ("kcenter_merge", {}),
    ("topk", {"score": "norm"}),
    ("random", {}),
]


def tokens(seed=0):
    return (np.random.default_rng(seed).standard_normal((2, N, D)) + 1).astype(np.float32)


def result(compressor, x):
    reference = compressor.reference(CASE, torch.from_numpy(x))
    return dataclasses.replace(reference, **{name: getattr(reference, name).numpy().copy() for name in OUTPUTS})


@pytest.mark.parametrize(("method", "params"), METHODS)
def test_the_reference_agrees_with_itself(method, params):
    compressor, x = make(method, params), tokens()
    agreement = compare(compressor, CASE, x, result(compressor, x))
    assert agreement.ok, agreement
    assert (agreement.flipped, agreement.moved, agreement.regret) == (0, 0, 0)
    assert agreement.cosine > 0.999999


@pytest.mark.parametrize(("method", "params"), METHODS)
def test_results_of_other_tokens_do_not(method, params):
    compressor = make(method, params)
    agreement = compare(compressor, CASE, tokens(0), result(compressor, tokens(1)))
    assert not agreement.ok


@pytest.mark.parametrize(("method", "params"), [m for m in METHODS if m[0] in ("topk", "kcenter_merge")])
def test_keeping_a_worse_token_is_no_tie(method, params):
    compressor, x = make(method, params), tokens()
    got = result(compressor, x)
    lost = next(i for i in range(N) if i not in got.kept_indices[0])
    kept = np.sort(np.append(got.kept_indices[0, 1:], lost))
    replay = compressor.replay(
        CASE, torch.from_numpy(x), _torch(dataclasses.replace(got, kept_indices=np.stack([kept, got.kept_indices[1]])))
    )
    got = dataclasses.replace(replay.expected, **{name: getattr(replay.expected, name).numpy() for name in OUTPUTS})
    agreement = compare(compressor, CASE, x, got)
    assert not agreement.ok
    assert agreement.regret > 1e-3


def test_a_tie_may_fall_either_way():
    x = tokens()
    compressor = make("topk", {"score": "norm"})
    scores = np.linalg.norm(x[0], axis=1)
    order = np.argsort(-scores)
    x[0, order[K]] *= scores[order[K - 1]] / scores[order[K]] * (1 - 1e-6)
    got = result(compressor, x)
    swapped = np.sort(np.append(got.kept_indices[0][got.kept_indices[0] != order[K - 1]], order[K]))
    got.kept_indices[0], got.tokens[0] = swapped, x[0, swapped]
    got.assignment[0] = -1
    got.assignment[0, swapped] = np.arange(K)
    agreement = compare(compressor, CASE, x, got)
    assert agreement.ok, agreement
    assert (agreement.flipped, agreement.moved) == (1, 2)
    assert 0 < agreement.regret < 1e-5
    assert not compare(compressor, CASE, x, got, tolerance=1e-8).ok


@pytest.mark.parametrize("method", ["apet", "kcenter_merge"])
def test_merging_into_the_wrong_slot_is_seen(method):
    compressor, x = make(method, {"basis": 4} if method == "apet" else {}), tokens()
    got = result(compressor, x)
    i = next(i for i in range(N) if i not in got.kept_indices[0])
    targets = [s for s in range(K) if s != got.assignment[0, i] and s in got.assignment[0]]
    got.assignment[0, i] = targets[0]
    count = (got.assignment[:, None] == np.arange(K)[:, None]).sum(2)
    got = dataclasses.replace(got, sizes=np.maximum(count, 1).astype(np.float32))
    agreement = compare(compressor, CASE, x, got)
    assert not agreement.ok
    assert agreement.regret > 1e-3


def test_losing_a_token_that_has_to_be_merged_is_no_tie():
    compressor, x = make("kcenter_merge"), tokens()
    got = result(compressor, x)
    i = next(i for i in range(N) if i not in got.kept_indices[0])
    got.sizes[0, got.assignment[0, i]] -= 1
    got.assignment[0, i] = -1
    assert compare(compressor, CASE, x, got).regret == np.inf


def test_a_selection_that_claims_a_merge_is_no_tie():
    compressor, x = make("topk", {"score": "norm"}), tokens()
    got = result(compressor, x)
    i = next(i for i in range(N) if i not in got.kept_indices[1])
    got.assignment[1, i] = 0
    agreement = compare(compressor, CASE, x, got)
    assert not agreement.ok
    assert agreement.worst == f"assignment[1, {i}] is 0, not -1"
    got.sizes[1, 0] = 2
    assert compare(compressor, CASE, x, got).worst == "sizes are not 1"


def test_wrong_values_are_named():
    compressor, x = make("kcenter_merge"), tokens()
    got = result(compressor, x)
    got.tokens[1, 3] *= 1.01
    agreement = compare(compressor, CASE, x, got)
    assert not agreement.ok
    assert agreement.worst.startswith("batch element 1, slot 3 (position ")
    assert agreement.norm_ratio == pytest.approx(0.01, rel=1e-3)
    assert compare(compressor, CASE, x, got, max_norm_ratio=0.02).ok


def test_a_basis_slot_too_few_is_no_tie():
    compressor, x = make("apet", {"basis": 4}), tokens()
    got = result(compressor, x)
    position = next(i for i in got.kept_indices[0] if got.assignment[0, i] < 0)
    got.assignment[0, position] = np.searchsorted(got.kept_indices[0], position)
    assert compare(compressor, CASE, x, got).regret == np.inf


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("kept_indices", lambda a: a[:, ::-1], "not ascending"),
        ("kept_indices", lambda a: np.repeat(a[:, ::2], 2, axis=1), "not ascending"),
        ("kept_indices", lambda a: a + N, "not all in"),
        ("kept_indices", lambda a: a.astype(np.int32), "kept_indices is int32"),
        ("assignment", lambda a: a + K, "not all in"),
        ("assignment", lambda a: a[:, :5], r"assignment is int64\[2, 5\]"),
        ("sizes", lambda a: a + 1, "sizes do not equal"),
        ("tokens", lambda a: a * np.float32("nan"), "not finite"),
        ("tokens", lambda a: a.astype(np.float16), "tokens is float16"),
    ],
)
def test_a_broken_contract_is_named(name, change, message):
    compressor, x = make("kcenter_merge"), tokens()
    got = result(compressor, x)
    agreement = compare(compressor, CASE, x, dataclasses.replace(got, **{name: change(getattr(got, name))}))
    assert not agreement.ok
    assert re.search(message, agreement.worst), agreement.worst


def _torch(arrays):
    return dataclasses.replace(arrays, **{name: torch.from_numpy(getattr(arrays, name)) for name in OUTPUTS})
