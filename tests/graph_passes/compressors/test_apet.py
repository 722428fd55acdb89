import numpy as np
import pytest
import torch
from body_runner import body_model, body_session, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make

# One basis token, (1, 0): it explains what lies along x, so the error of a token is its second coordinate.
TOKENS = np.array([[[1, 0], [2, 0], [0, 3], [0, 1], [1, 2], [1, 2.9]]], np.float32)
CASE = Case(6, 2, 3)


@pytest.mark.parametrize(
    ("params", "slots", "sizes", "assignment"),
    [
        ({}, [[0, 2], [1, 0], [4 / 3, 2.9 / 3]], [2, 1, 3], [2, 2, 0, 0, -1, 2]),
        ({"basis_slots": "blend"}, [[0, 2], [1, 1], [4 / 3, 2.9 / 3]], [2, 1, 3], [2, 2, 0, 0, -1, 2]),
        ({"basis_slots": "none"}, [[0, 2], [4 / 3, 2 / 3], [1, 2.9]], [2, 3, 1], [1, 1, 0, 0, 1, 2]),
        ({"merge": False}, [[0, 3], [1, 0], [1, 2.9]], [1, 1, 1], [-1, -1, 0, -1, -1, 2]),
        ({"merge": False, "basis_slots": "blend"}, [[0, 3], [1, 1], [1, 2.9]], [1, 1, 1], [-1, -1, 0, -1, -1, 2]),
        ({"merge": False, "basis_slots": "none"}, [[0, 3], [1, 2], [1, 2.9]], [1, 1, 1], [-1, -1, 0, -1, 1, 2]),
    ],
)
def test_worked_example(params, slots, sizes, assignment):
    for way, got in every_way(make("apet", {"basis": 1, **params}), CASE, TOKENS).items():
        np.testing.assert_allclose(got.tokens[0], slots, rtol=1e-6, err_msg=way)
        assert got.kept_indices.tolist() == [[2, 4, 5]], way
        assert got.sizes.tolist() == [sizes], way
        assert got.assignment.tolist() == [assignment], way


def test_basis_tokens_fill_slots_in_picking_order():
    # Errors 0 for the basis 0 and 3; kept are 1, 2, 4, 5, of which 1 and 4 have the lowest error.
    tokens = np.zeros((1, 6, 4), np.float32)
    tokens[0, 0, 0], tokens[0, 3, 1] = 1, 50
    tokens[0, 1, 2], tokens[0, 2, 2], tokens[0, 4, 3], tokens[0, 5, 3] = 1, 3, 2, 4
    for way, got in every_way(make("apet", {"basis": 2}), Case(6, 4, 4), tokens).items():
        assert got.kept_indices.tolist() == [[1, 2, 4, 5]], way
        assert got.tokens[0, 0].tolist() == [1, 0, 0, 0], way
        assert got.tokens[0, 2].tolist() == [0, 50, 0, 0], way
        assert got.assignment[0, [1, 4]].tolist() == [-1, -1], way


@pytest.mark.parametrize(("start", "first"), [("first", 0), ("max_norm", 3), ("farthest_from_mean", 1)])
def test_start_rule_picks_the_basis(start, first):
    # With one basis token and no basis slots, the token that is left out is the one the basis explains: itself.
    tokens = np.array([[[5, 1], [-2, 3], [5, 0], [6, 0.5]]], np.float32)
    compressor = make("apet", {"basis": 1, "basis_slots": "none", "merge": False, "start": start})
    errors = compressor.errors(torch.from_numpy(tokens), torch.tensor([[first]]))[0].numpy()
    expected = sorted(np.argsort(-errors)[:3].tolist())
    assert int(errors.argmin()) == first
    for way, got in every_way(compressor, Case(4, 2, 3), tokens).items():
        assert got.kept_indices.tolist() == [expected], way


def test_large_ridge_is_not_plain_least_squares():
    # The basis token s = (3, 4) explains itself only up to ridge / (|s|^2 + ridge) = 1/2: its error is 2.5.
    tokens = np.array([[[3, 4], [0, 2.4], [0, 4.4]]], np.float32)
    compressor = make("apet", {"basis": 1, "basis_slots": "none", "merge": False, "ridge": 25.0})
    for way, got in every_way(compressor, Case(3, 2, 1), tokens).items():
        assert got.kept_indices.tolist() == [[2]], way
    for way, got in every_way(compressor, Case(3, 2, 2), tokens).items():
        assert got.kept_indices.tolist() == [[0, 2]], way


def test_follows_the_released_steps():
    """The steps of the released code, written down once more as loops over single tokens."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, 12)).astype(np.float32) + 1
    k, keep = 4, 15
    picks = [0]
    while len(picks) < k:
        picks.append(int(np.argmax([min(((x[j] - x[p]) ** 2).sum() for p in picks) for j in range(40)])))
    s = x[picks].astype(np.float64)
    a = np.linalg.solve(s @ s.T + 1e-5 * np.eye(k), s @ x.T.astype(np.float64)).T
    error = np.linalg.norm(x - a @ s, axis=1)
    best = np.argsort(-error)[:keep]
    targets, slots = best[: keep - k], np.sort(best)
    content = x.astype(np.float64).copy()
    count = np.ones(40)
    for i in set(range(40)) - set(best.tolist()):
        cosine = [x[i] @ x[t] / np.linalg.norm(x[i]) / np.linalg.norm(x[t]) for t in targets]
        content[targets[int(np.argmax(cosine))]] += x[i]
        count[targets[int(np.argmax(cosine))]] += 1
    content /= count[:, None]
    content[np.sort(best[keep - k :])] = s
    for way, got in every_way(make("apet", {"basis": k}), Case(40, 12, keep), x[None]).items():
        assert got.kept_indices[0].tolist() == slots.tolist(), way
        np.testing.assert_allclose(got.tokens[0], content[slots], atol=1e-5, err_msg=way)
        assert got.sizes[0].tolist() == count[slots].tolist(), way


@pytest.mark.parametrize("seed", range(3))
def test_basis_tokens_on_one_line_stay_orthogonal(seed):
    """Half of the tokens are long and nearly parallel: what is left of the next one is small beside its rounding."""
    rng = np.random.default_rng(seed)
    line = 1000 * rng.standard_normal((20, 1)) * rng.standard_normal(32)
    tokens = np.concatenate([line, rng.standard_normal((20, 32))]).astype(np.float32)[None]
    compressor, case = make("apet", {"basis": 8, "basis_slots": "none"}), Case(40, 32, 12)
    agreement = compare(compressor, case, tokens, body_session(compressor, case)(tokens))
    assert agreement.ok, agreement


@pytest.mark.parametrize("slots", ["overwrite", "blend"])
def test_basis_needs_room(slots):
    compressor = make("apet", {"basis_slots": slots})
    with pytest.raises(RequestError, match=r"keep 10 is outside 11\.\.144.*basis fills 10 slots"):
        compressor.check(Case(144, 8, 10))
    compressor.check(Case(144, 8, 11))
    make("apet", {"basis_slots": "none"}).check(Case(144, 8, 1))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"basis": 0}, "basis 0 is not positive"),
        ({"ridge": 0}, "ridge 0.0 is outside"),
        ({"ridge": "inf"}, "ridge inf"),
        ({"ridge": "nan"}, "ridge nan"),
    ],
)
def test_parameters_out_of_range(params, message):
    with pytest.raises(RequestError, match=message):
        make("apet", params)


def test_basis_larger_than_the_set():
    with pytest.raises(RequestError, match="basis 10 is more than the 9 tokens"):
        make("apet").check(Case(9, 8, 9))


def test_body_size():
    (function,) = body_model(make("apet"), Case(576, 1024, 86)).functions.values()
    assert len(function) < 400
