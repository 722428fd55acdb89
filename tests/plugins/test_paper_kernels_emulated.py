"""What tome and cdpruner do beyond the checks of all kernels, on the CPU."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, draw
from paper_checks import check_tome
from tokexport.graph_passes.compressors import Case, make
from tokexport.plugins.structs import DTYPES as CODES
from tokexport.plugins.structs import Cdpruner, Tome


def text_for(weights: torch.Tensor) -> torch.Tensor:
    """[1, 3, D], a row of some length and two of padding, whose products with unit tokens are in these proportions."""
    return torch.nn.functional.pad(7 * weights[None, None], (0, 0, 1, 1))


def test_relevance_ranks_tokens_that_add_nothing(library):
    tokens = torch.eye(4).repeat(2, 1)[None]
    text = text_for(torch.tensor([0.5, 1.0, 0.25, 0.75]))
    for keep, kept in ((3, [0, 1, 3]), (4, [0, 1, 3, 5]), (5, [0, 1, 3, 5, 7]), (6, [0, 1, 3, 4, 5, 7])):
        got = library.run("cdpruner", keep, Cdpruner(3, 0, 0), tokens, text)
        assert got.kept_indices.tolist() == [kept]
    # Turned, the third is the most relevant, and it is the second that adds nothing.
    assert library.run("cdpruner", 5, Cdpruner(3, 1, 0), tokens, text).kept_indices.tolist() == [[0, 2, 3, 4, 6]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_text_has_a_type_of_its_own(library, dtype):
    tokens, text = draw("normal", (2, 24, 16)), draw("normal", (2, 4, 16), 1).to(DTYPES[dtype])
    text[:, 2] = 0
    expected = make("cdpruner", {"text_length": 4}).reference(Case(24, 16, 9), tokens, text)
    got = library.run("cdpruner", 9, Cdpruner(4, 1, CODES[dtype]), tokens, text)
    assert got.kept_indices.tolist() == expected.kept_indices.tolist()


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


def test_the_order_of_threads_and_blocks_changes_nothing(library, monkeypatch):
    tokens = draw("normal", (2, 40, 12))
    forward = library.run("tome", 25, Tome(12, 0), tokens, tokens, None)
    monkeypatch.setenv("TOKEXPORT_EMULATION_REVERSE", "1")
    backward = library.run("tome", 25, Tome(12, 0), tokens, tokens, None)
    for name, value in vars(forward).items():
        assert value.tobytes() == getattr(backward, name).tobytes(), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_values_that_overflow_give_valid_outputs(library, value):
    tokens = draw("normal", (1, 20, 8))
    tokens[0, 3:9, 2] = value
    got = library.run("tome", 12, Tome(8, 0), tokens, tokens, None)
    assert (got.kept_indices[:, 1:] > got.kept_indices[:, :-1]).all()
    assert got.kept_indices.min() >= 0 and got.kept_indices.max() < 20
    assert got.assignment.min() >= -1 and got.assignment.max() < 12
