"""The kernels' own source, compiled by g++ and run block by block on the CPU, against the PyTorch references."""

from __future__ import annotations

import pytest
import torch
from kernel_abi import params_of
from kernel_checks import BY_COSINE, DTYPES, KINDS, METHODS, agrees, draw, is_equal, pointers, run, signals_of
from tokexport.graph_passes.compressors import Case, make
from tokexport.plugins.structs import MAX_BASIS

METHOD_IDS = ["-".join([method, *map(str, params.values())]) for method, params in METHODS]
# Odd and even sides, both sides of a warp and of a tile, K = N, one token.
SHAPES = [(1, 13, 5, 6), (2, 33, 8, 9), (1, 40, 36, 33), (3, 9, 16, 9)]


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_dtypes(library, method, params, dtype):
    for seed, (b, n, d, k) in enumerate(SHAPES):
        agrees(library, method, params, k, draw("normal", (b, n, d), seed).to(DTYPES[dtype]))


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("shape", [(1, 300, 3, 20), (1, 9, 517, 6), (1, 9, 1028, 6)], ids=str)
def test_more_than_one_block_has_threads_for(library, method, params, shape):
    b, n, d, k = shape
    agrees(library, method, params, k, draw("normal", (b, n, d)))


def test_more_tokens_than_a_launch_has_warps_for(library):
    is_equal(library, "kcenter_merge", {}, 3, draw("integer", (1, 4103, 2)))


@pytest.mark.parametrize("dim", [96, 24])
def test_the_largest_basis(library, dim):
    agrees(library, "apet", {"basis": MAX_BASIS}, 72, draw("normal", (1, 80, dim)))


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_tokens(library, method, params, kind):
    agrees(library, method, params, 8, draw(kind, (2, 21, 6)))


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
def test_ties_break_as_in_the_reference(library, method, params):
    for seed in range(4):
        is_equal(library, method, params, 7, draw("axis" if method in BY_COSINE else "integer", (2, 32, 8), seed))


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
def test_every_token_kept_is_the_identity(library, method, params):
    tokens = draw("normal", (2, 11, 7)).half()
    got, _, _ = run(library, method, params, 11, tokens)
    assert (got.tokens == tokens.numpy()).all()
    assert (got.sizes == 1).all()


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
def test_the_order_of_threads_and_blocks_changes_nothing(library, method, params, monkeypatch):
    tokens = draw("normal", (2, 40, 12))
    forward, _, _ = run(library, method, params, 9, tokens)
    monkeypatch.setenv("TOKEXPORT_EMULATION_REVERSE", "1")
    backward, _, _ = run(library, method, params, 9, tokens)
    for name, value in vars(forward).items():
        assert value.tobytes() == getattr(backward, name).tobytes(), name


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
def test_tokens_that_are_not_aligned_to_sixteen_bytes(library, method, params):
    room = torch.zeros(2 * 20 * 8 + 1)
    tokens = room[1:].view(2, 20, 8).copy_(draw("normal", (2, 20, 8)))
    assert tokens.data_ptr() % 16 == 4
    agrees(library, method, params, 6, tokens)


@pytest.mark.parametrize(("method", "params"), METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_values_that_overflow_give_valid_outputs(library, method, params, value):
    tokens = draw("normal", (1, 20, 8))
    tokens[0, 3:9, 2] = value
    compressor, case = make(method, params), Case(20, 8, 6)
    signals = signals_of(compressor, tokens)
    for signal in signals.values():
        signal[0, ::3] = value  # attention; of keys all channels
    got = library.run(method, 6, params_of(compressor, case, *signals.values()), tokens, *pointers(method, signals))
    assert (got.kept_indices[:, 1:] > got.kept_indices[:, :-1]).all()
    assert got.kept_indices.min() >= 0 and got.kept_indices.max() < 20
    assert got.assignment.min() >= -1 and got.assignment.max() < 6
    assert got.sizes.min() >= 1
