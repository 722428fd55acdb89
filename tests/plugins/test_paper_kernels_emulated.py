"""tome and cdpruner on the CPU."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, draw
from paper_checks import check_cdpruner, check_tome
from tokexport.plugins.structs import Tome

SHAPES = [(1, 13, 5, 6), (2, 33, 8, 9), (1, 40, 36, 33), (2, 9, 16, 9), (1, 1, 3, 1), (1, 270, 9, 40)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_cdpruner(library, dtype):
    for seed, (b, n, d, k) in enumerate(SHAPES):
        check_cdpruner(library, k, draw("normal", (b, n, d), seed).to(DTYPES[dtype]))


@pytest.mark.parametrize("kind", ["axis", "duplicate", "constant", "zero", "sink"])
def test_cdpruner_of_kinds_of_tokens(library, kind):
    check_cdpruner(library, 8, draw(kind, (2, 24, 6)))


def test_relevance_ranks_tokens_that_add_nothing(library):
    tokens = torch.eye(2).repeat_interleave(4, 0)[None]
    relevance = torch.tensor([[0.5, 1.0, 0.25, 0.75, 0.5, 0.25, 1.0, 0.125]])
    got = library.run("cdpruner", 4, None, tokens, relevance)
    assert got.kept_indices.tolist() == [[0, 1, 3, 6]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "k", "protect"), [(13, 8, 1), (12, 6, 0), (40, 25, 2), (13, 13, 0), (37, 30, 3), (2, 1, 0), (1, 1, 0)]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_tome(library, dtype, n, k, protect, weighted):
    tokens, metric = draw("normal", (2, n, 6), n).to(DTYPES[dtype]), draw("normal", (2, n, 9), n + 1).to(DTYPES[dtype])
    sizes = torch.arange(1, 2 * n + 1).view(2, n).float() if weighted else None
    check_tome(library, k, protect, tokens, metric, sizes)


@pytest.mark.parametrize("kind", ["axis", "duplicate", "constant", "zero"])
def test_tome_of_kinds_of_tokens(library, kind):
    tokens = draw(kind, (2, 21, 6))
    check_tome(library, 15, 1, tokens, tokens, None)


def test_tome_breaks_ties_to_the_lowest_index(library):
    tokens = torch.ones(1, 8, 2)
    got = library.run("tome", 6, Tome(2, 0), tokens, tokens, None)
    assert got.kept_indices.tolist() == [[1, 3, 4, 5, 6, 7]]
    assert got.assignment.tolist() == [[0, 0, 0, 1, 2, 3, 4, 5]]
    assert got.sizes.tolist() == [[3, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("method", ["cdpruner", "tome"])
def test_the_order_of_threads_and_blocks_changes_nothing(library, method, monkeypatch):
    tokens, signal = draw("normal", (2, 40, 12)), torch.rand(2, 40)
    inputs = [tokens, None] if method == "tome" else [signal]
    params = Tome(12, 0) if method == "tome" else None
    forward = library.run(method, 25, params, tokens, *inputs)
    monkeypatch.setenv("TOKEXPORT_EMULATION_REVERSE", "1")
    backward = library.run(method, 25, params, tokens, *inputs)
    for name, value in vars(forward).items():
        assert value.tobytes() == getattr(backward, name).tobytes(), name


@pytest.mark.parametrize("method", ["cdpruner", "tome"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_values_that_overflow_give_valid_outputs(library, method, value):
    tokens, signal = draw("normal", (1, 20, 8)), torch.rand(1, 20)
    tokens[0, 3:9, 2] = value
    signal[0, 3:5] = value
    inputs = [tokens, None] if method == "tome" else [signal]
    got = library.run(method, 12, Tome(8, 0) if method == "tome" else None, tokens, *inputs)
    assert (got.kept_indices[:, 1:] > got.kept_indices[:, :-1]).all()
    assert got.kept_indices.min() >= 0 and got.kept_indices.max() < 20
    assert got.assignment.min() >= -1 and got.assignment.max() < 12
