import numpy as np
import pytest
import torch
from body_runner import body_model, body_session, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, Compressed, make
from tokexport.graph_passes.compressors.blocks import select
from tokexport.graph_passes.compressors.blocks.bipartite import emit_match, match, rounds, weighted_mean
from tokexport.graph_passes.compressors.replays.bipartite import refold_regret

INF = float("inf")
TOKENS = make("tome", {"metric": "tokens"})


def directions(*degrees):
    """Tokens [1, N, 2] of length 1."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)[None].astype(np.float32)


# Even 0, 90, 40 find 5, 80, 5: 5, 10 and 35 degrees away.
EXAMPLE = directions(0, 5, 90, 80, 40, 200)


@pytest.mark.parametrize(
    ("keep", "kept", "assignment"),
    [
        (5, [1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4]),
        (4, [1, 3, 4, 5], [0, 0, 1, 1, 2, 3]),
        (3, [1, 3, 5], [0, 0, 1, 1, 0, 2]),
        # A second round on what is at 15, 85 and 200 degrees: the first is nearer to the second than the third is.
        (2, [3, 5], [0, 0, 0, 0, 0, 1]),
        (1, [5], [0, 0, 0, 0, 0, 0]),
    ],
)
def test_worked_example(keep, kept, assignment):
    for way, got in every_way(TOKENS, Case(6, 2, keep), EXAMPLE).items():
        assert got.kept_indices.tolist() == [kept], way
        assert got.assignment.tolist() == [assignment], way
        assert got.sizes.tolist() == [np.bincount(assignment).tolist()], way
        expected = [EXAMPLE[0, np.array(assignment) == slot].mean(0) for slot in range(keep)]
        np.testing.assert_allclose(got.tokens[0], expected, rtol=1e-5, atol=1e-6, err_msg=way)


def test_keys_are_matched_and_tokens_merged():
    tokens = np.array([1, 2, 4, 8], np.float32).reshape(1, 4, 1)
    keys = np.zeros((1, 4, 6), np.float32)
    keys[0, :, :2] = directions(0, 90, 85, 5)[0]
    for way, got in every_way(make("tome"), Case(4, 1, 2), tokens, keys=keys).items():
        assert got.assignment.tolist() == [[1, 0, 0, 1]], way
        assert got.tokens.tolist() == [[[3], [4.5]]], way


def test_equal_similarities_go_to_the_lowest_index():
    tokens = np.ones((1, 8, 2), np.float32)
    for way, got in every_way(TOKENS, Case(8, 2, 6), tokens).items():
        assert got.kept_indices.tolist() == [[1, 3, 4, 5, 6, 7]], way
        assert got.assignment.tolist() == [[0, 0, 0, 1, 2, 3, 4, 5]], way


def test_rounds_remove_as_many_as_they_can():
    assert rounds(576, 86, lambda t: t // 2) == [288, 144, 58]
    assert rounds(7, 1, lambda t: t // 2) == [3, 2, 1]
    assert rounds(5, 5, lambda t: t // 2) == []


class Round:
    """One round inside an encoder, where CLS stays alone."""

    def signals(self):
        return ()

    def check(self, case):
        pass

    def onnx(self, b, case, tokens):
        slots, kept = emit_match(b, tokens, case.tokens, case.tokens - case.keep, protect=1)
        index = b.cast(kept, "int64")
        content = select.emit_gather(b, tokens, index)
        return Compressed(content, index, select.emit_rows(b, tokens, np.ones(4, np.float32)), b.cast(slots, "int64"))


def test_a_round_inside_an_encoder_protects_the_prefix_and_weights_by_size():
    # Shifted by CLS, which equals the first: 5 and 80 are even now, and find 0 and 90.
    metric = np.concatenate([directions(0), EXAMPLE[:, :4]], 1)
    slots, kept = match(torch.from_numpy(metric), 1, protect=1)
    body = body_session(Round(), Case(5, 2, 4))(metric)
    assert slots.tolist() == body.assignment.tolist() == [[0, 1, 1, 2, 3]]
    assert kept.tolist() == body.kept_indices.tolist() == [[0, 1, 3, 4]]
    content, sizes = torch.tensor([9.0, 1, 4, 5, 6]).view(1, 5, 1), torch.tensor([[1.0, 2, 1, 1, 3]])
    merged, sizes = weighted_mean(content, sizes, slots, 4)
    assert merged.tolist() == [[[9], [2], [5], [6]]]
    assert sizes.tolist() == [[1, 3, 1, 3]]


def test_a_merge_is_judged_by_the_better_one_that_was_there():
    metric, kept = torch.from_numpy(EXAMPLE), torch.tensor([[1, 3, 4, 5]])
    assert refold_regret(metric, [2], kept, torch.tensor([[0, 0, 1, 1, 2, 3]])).tolist() == [0]
    # 0 went to 80 and not to 5; a rounding is relative to 2.
    wrong = refold_regret(metric, [2], kept, torch.tensor([[1, 0, 1, 1, 2, 3]]))
    np.testing.assert_allclose(wrong, (np.cos(np.deg2rad(5)) - np.cos(np.deg2rad(80))) / 2, rtol=1e-5)
    # No round takes an odd token away.
    assert refold_regret(metric, [2], torch.tensor([[0, 3, 4, 5]]), torch.tensor([[0, 0, 1, 1, 2, 3]])).tolist() == [
        INF
    ]


def test_keep_outside():
    with pytest.raises(RequestError, match=r"keep 0 is outside 1\.\.9"):
        make("tome").check(Case(9, 8, 0))


def test_body_size():
    (function,) = body_model(TOKENS, Case(576, 64, 128)).functions.values()
    assert len(function) < 150
