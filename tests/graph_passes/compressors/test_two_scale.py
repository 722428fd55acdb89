import numpy as np
import pytest
import torch
from body_runner import body_model, every_way
from properties import draw
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, Compressed, make
from tokexport.graph_passes.compressors.blocks import replay


def line(*places):
    """Tokens [1, N, 1]."""
    return np.array(places, np.float32).reshape(1, -1, 1)


def test_worked_example():
    # Points 0, 10, 4, 6.5; 8 joins 6.5. Means .5, 10, 4, 7.25: the last is nearest to 10, and 4 to .5.
    tokens = line(0, 10, 1, 4, 6.5, 8)
    for ratio in (0.2, 0.5):
        for way, got in every_way(make("two_scale", {"ratio": ratio}), Case(6, 1, 2), tokens).items():
            assert got.kept_indices.tolist() == [[0, 1]], way
            assert got.assignment.tolist() == [[0, 1, 0, 0, 1, 1]], way
            assert got.sizes.tolist() == [[3, 3]], way
            np.testing.assert_allclose(got.tokens[0, :, 0], [5 / 3, 24.5 / 3], rtol=1e-6, err_msg=way)


def test_groups_follow_the_one_they_join():
    # 1.6 joins 3, and 3 joins 0, in one round.
    for way, got in every_way(make("two_scale", {"ratio": 0.5}), Case(4, 1, 2), line(0, 100, 3, 1.6)).items():
        assert got.assignment.tolist() == [[0, 1, 0, 0]], way


def test_the_position_is_that_of_the_earliest_pick():
    for way, got in every_way(make("two_scale"), Case(4, 1, 2), line(0, 8, 10, 1)).items():
        assert got.kept_indices.tolist() == [[0, 2]], way
        assert got.assignment.tolist() == [[0, 1, 1, 0]], way


def test_a_mean_counts_every_token():
    # All are points. 7.2 and 7.2, then 7, and 5: the mean of what stands around 7 grows by each of its tokens.
    for way, got in every_way(make("two_scale", {"points": 3}), Case(6, 1, 3), line(0, 20, 7, 5, 7.2, 7.2)).items():
        assert got.assignment.tolist() == [[0, 1, 2, 2, 2, 2]], way
        np.testing.assert_allclose(got.tokens[0, :, 0], [0, 20, 6.6], rtol=1e-6, err_msg=way)


def test_equal_tokens_go_by_the_lowest_index():
    for way, got in every_way(make("two_scale"), Case(5, 1, 3), line(4, 4, 4, 4, 4)).items():
        assert got.kept_indices.tolist() == [[0, 3, 4]], way
        assert got.assignment.tolist() == [[0, 0, 0, 1, 2]], way


@pytest.mark.parametrize("kind", ["normal", "integer"])
def test_one_point_for_each_slot_is_kcenter_merge(kind):
    # Also of equal distances the same one: differences of integers are exact.
    tokens = draw(kind, np.random.default_rng(0), 2, 25, 5)
    expected = every_way(make("kcenter_merge"), Case(25, 5, 7), tokens)["reference"]
    for way, got in every_way(make("two_scale", {"points": 1}), Case(25, 5, 7), tokens).items():
        np.testing.assert_array_equal(got.kept_indices, expected.kept_indices, err_msg=way)
        if kind == "normal":  # kcenter_merge joins the first of equal ones in space
            np.testing.assert_array_equal(got.assignment, expected.assignment, err_msg=way)


def regret(ratio, tokens, kept, slots, points=2):
    """Of an outcome for tokens [1, N, 1]."""
    x = torch.from_numpy(tokens)
    outcome = Compressed(x[:, : len(kept)], torch.tensor([kept]), torch.ones(1, len(kept)), torch.tensor([slots]))
    case = Case(x.shape[1], 1, len(kept))
    return make("two_scale", {"ratio": ratio, "points": points}).replay(case, x, outcome).regret.item()


def test_a_worse_outcome_is_regretted():
    tokens = line(0, 10, 1, 4, 6.5, 8)
    assert regret(0.2, tokens, [0, 1], [0, 1, 0, 0, 1, 1]) == 0
    # 4 joined what stands around 10; 10 is picked before 6.5; nothing else can be first.
    assert 1e-2 < regret(0.2, tokens, [0, 1], [0, 1, 0, 1, 1, 1]) < 1
    assert regret(0.2, tokens, [0, 4], [0, 1, 0, 0, 1, 1]) == float("inf")
    assert regret(0.2, tokens, [1, 2], [1, 0, 1, 1, 0, 0]) == float("inf")


def test_a_token_may_join_either_of_equal_points():
    # Points 9, 17, 1, 13, and 5 is as near to 1 as to 9. It makes 3 with 1, and leaves 13 as near to 9 as to 17.
    tokens = line(9, 5, 17, 13, 1)
    assert regret(0.5, tokens, [0, 2], [0, 0, 1, 0, 0]) == 0
    # Nothing takes 5 to 17 before 1.
    assert regret(0.5, tokens, [0, 2], [0, 1, 1, 0, 0]) > 1e-2


def test_a_group_may_join_either_of_equal_ones():
    # Groups 9.5, 16, 12, 14. The last makes 15 with 16, or 13 with 12, which is nearer to 16 than to 9.5.
    tokens = line(9, 12, 16, 10, 14)
    assert regret(0.2, tokens, [0, 2], [0, 0, 1, 0, 1]) == 0
    assert regret(0.2, tokens, [0, 2], [0, 1, 1, 0, 1]) == 0
    assert regret(0.2, tokens, [0, 2], [0, 0, 1, 0, 0]) > 1e-2


def test_a_worse_pick_is_not_excused_by_rounding():
    # 1000 is .9 from 1000.9, which is but rounding to them. To .1 or .8, as far from 0 as they are, it is none.
    tokens = line(0, 1000, 1000.9, -1000, -1000.9, 0.8, 0.1)
    assert regret(0.2, tokens, [0, 2, 4, 5], [0, 1, 1, 2, 2, 3, 0], points=1) < 1e-6
    assert regret(0.2, tokens, [0, 2, 4, 6], [0, 1, 1, 2, 2, 3, 3], points=1) > 1e-2


def test_what_is_but_rounding_is_picked_or_not(monkeypatch):
    # Beside large tokens a body takes .9 for 0, and never picks 1000: two more of the small ones are points.
    tokens = line(0, -1.89, -1.5, -1.1, -0.8, 0.4, 1, 1.2, 1.5, 1.6, 1000, 1000.9, -1000, -1000.9)
    kept, large = [0, 1, 9, 11, 13], [2, 2, 2, 2, 3, 3, 4, 4]
    slots = {way: [0, 1, 1, 0, 0, 0, *large] for way in ("body", "body with exact ties")}
    slots["reference"] = [0, 1, 1, 1, 1, 0, *large]
    # Both are found without a search: ten picks, the tokens around them, and one round.
    monkeypatch.setattr(replay, "_TRIES", 12)
    for way, got in every_way(make("two_scale", {"ratio": 0.5}), Case(14, 1, 5), tokens).items():
        assert got.kept_indices.tolist() == [kept], way
        assert got.assignment.tolist() == [slots[way]], way
        assert regret(0.5, tokens, kept, slots[way]) < 1e-6, way


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 0 is outside 1\.\.9"):
        make("two_scale").check(Case(9, 8, 0))
    with pytest.raises(RequestError, match=r"points 0 is outside 1\.\.16"):
        make("two_scale", {"points": 0})
    with pytest.raises(RequestError, match=r"ratio 0\.6 is outside 0\.05\.\.0\.5"):
        make("two_scale", {"ratio": 0.6})


def test_body_size():
    (function,) = body_model(make("two_scale"), Case(576, 64, 128)).functions.values()
    assert len(function) < 1100
