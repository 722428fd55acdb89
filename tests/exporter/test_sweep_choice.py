"""Which row of a sweep is recommended, on rows written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tokexport.errors import RequestError
from tokexport.exporter.sweeps.choice import Goal, Points, choose, least_error

BASELINES = ("uniform", "random", "pool", "resolution")


def row(method: str, keep: int, accuracy: float, ms: float, ratio: str = "", stderr: float = 0.01) -> dict[str, Any]:
    figures = {"accuracy": accuracy, "stderr": stderr, "encoder_ms": ms / 2, "prefill_ms": ms / 2}
    return {"method": method, "keep": keep, "ratio": ratio, "baseline": method in BASELINES, **figures}


def points(*rows: dict[str, Any], questions: int = 1000, ms: float = 100) -> Points:
    return Points(
        {
            "figure": "accuracy",
            "questions": questions,
            "seeds": 1,
            "uncompressed": row("uncompressed", 144, 1.0, ms),
            "rows": [*rows, {"method": "apet", "keep": 20, "ratio": "", "baseline": False, "reason": "cannot"}],
        }
    )


CHANCE = (row("uniform", 20, 0.7, 50), row("random", 20, 0.72, 50), row("resolution", 16, 0.5, 20))


def taken(found: Points, **goal: Any) -> str:
    chosen = choose(found, Goal(**goal))
    return chosen.point.name if chosen.point else chosen.why


def test_the_least_loss_at_so_many_tokens_and_of_equals_the_fastest():
    found = points(*CHANCE, row("a", 20, 0.95, 60), row("b", 20, 0.945, 55), row("c", 20, 0.9, 50), row("d", 40, 1, 70))
    chosen = choose(found, Goal(tokens=20))
    assert chosen.point is not None and chosen.point.name == "b"
    assert "b, 20 tokens: 0.055 ± 0.010 is within one standard error of a, 20 tokens" in chosen.why
    assert taken(points(*CHANCE, row("a", 20, 0.95, 60), row("b", 20, 0.93, 55)), tokens=20) == "a"


def test_no_method_that_chance_equals_is_recommended():
    found = points(*CHANCE, row("a", 20, 0.72, 60), row("b", 20, 0.6, 55))
    chosen = choose(found, Goal(tokens=20))
    assert chosen.point is not None and chosen.point.name == "uniform"
    assert "No method at 20 tokens is clearly better" in chosen.why and "random tokens (random)" in chosen.why
    assert chosen.why.count("(uniform)") == 1
    # Better, by less than two standard errors of both.
    assert taken(points(*CHANCE, row("a", 20, 0.747, 60)), tokens=20) == "uniform"
    assert taken(points(*CHANCE, row("a", 20, 0.75, 60)), tokens=20) == "a"


def test_a_smaller_picture_that_does_as_well_is_recommended_and_what_else_there_is():
    found = points(row("uniform", 20, 0.7, 50), row("resolution", 16, 0.94, 20), row("a", 20, 0.95, 60))
    assert taken(found, tokens=20) == "resolution"
    other = choose(found, Goal(tokens=20), smaller_pictures=False).point
    assert other is not None and other.name == "a"


def test_within_a_time_the_least_loss():
    rows = (*CHANCE, row("a", 20, 0.9, 60), row("a", 40, 0.95, 70, ".5"), row("uniform", 40, 0.8, 65, ".5"))
    chosen = choose(points(*rows), Goal(latency_ms=75))
    assert chosen.point is not None and chosen.point.keep == 40 and chosen.point.name == "a"
    assert taken(points(*rows), latency_ms=62) == "a" and taken(points(*rows), latency_ms=55) == "uniform"
    # Chance counts at the budget of a method, also where it is too slow itself.
    slow = (row("uniform", 20, 0.9, 50), row("a", 20, 0.9, 40))
    assert "Nothing can be recommended" in taken(points(*slow), latency_ms=45)


def test_what_misses_a_time_is_told_by_how_much():
    said = taken(points(*CHANCE, row("a", 20, 0.9, 60)), latency_ms=10)
    assert "fastest is resolution with 16 tokens: it takes 20.00 ms and misses by 10.00 ms, which is 100%" in said


def test_what_is_fast_enough_as_it_is_needs_no_compressor():
    assert taken(points(*CHANCE, row("a", 20, 0.99, 60)), latency_ms=101) == "uncompressed"


def test_the_fastest_that_loses_so_little_with_one_standard_error():
    rows = (*CHANCE, row("a", 20, 0.96, 60), row("b", 20, 0.955, 50), row("c", 40, 0.99, 80, ".5"))
    assert taken(points(*rows), loss=0.06) == "b"
    assert taken(points(*rows), loss=0.051) == "a"
    assert taken(points(*rows), loss=0.021) == "c"
    assert "Nothing loses at most 0.01 with one standard error" in taken(points(*rows), loss=0.01)


def test_a_baseline_that_loses_as_little_and_is_as_fast_is_taken():
    rows = (row("uniform", 40, 0.98, 82, ".5"), row("random", 40, 0.9, 82, ".5"), row("a", 40, 0.99, 80, ".5"))
    assert taken(points(*rows), loss=0.05) == "uniform"
    assert taken(points(*rows, row("b", 20, 0.97, 70, ".9")), loss=0.05) == "b"


def test_a_method_must_lose_less_than_chance_and_be_faster_than_the_model():
    rows = (row("uniform", 40, 0.98, 82, ".5"), row("random", 40, 0.99, 82, ".5"))
    assert taken(points(*rows, row("a", 40, 0.985, 60, ".5")), loss=0.05) == "uniform"
    assert "Nothing loses" in taken(points(row("a", 40, 0.99, 96)), loss=0.05)
    assert taken(points(row("a", 40, 0.99, 94)), loss=0.05) == "a"


def test_no_figure_is_known_better_than_one_answer():
    assert taken(points(*CHANCE, row("a", 20, 1.0, 60, stderr=0.0), questions=20), loss=0.06) == "a"
    assert "Nothing loses" in taken(points(*CHANCE, row("a", 20, 1.0, 60, stderr=0.0), questions=20), loss=0.04)
    assert least_error({"figure": "agreement", "inputs": 3, "seeds": 1}) == 1 / 3
    assert least_error({"figure": "accuracy", "questions": 50, "seeds": 2}) == 1 / 100
    # These are no counts.
    assert least_error({"figure": "cosine", "inputs": 3, "seeds": 1}) == 0
    assert least_error({"figure": "agreement", "agreement": "words", "inputs": 3, "seeds": 1}) == 0


def test_the_pareto_set_is_what_nothing_is_better_than_in_every_way():
    rows = (row("a", 20, 0.9, 50), row("b", 20, 0.9, 60), row("c", 40, 0.95, 70), row("d", 30, 0.8, 40))
    found = points(*rows, row("random", 20, 0.99, 10))
    found.mark()
    assert [one["method"] for one in rows if one["pareto"]] == ["a", "c", "d"]
    assert rows[0]["loss"] == pytest.approx(0.1) and rows[0]["ms"] == 50


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ({}, "no goal is given"),
        ({"tokens": 20, "loss": 0.01}, "several goals are given"),
        ({"latency_ms": 0}, "is no time"),
        ({"latency_ms": float("nan")}, "is no time"),
        ({"loss": 1.0}, "outside"),
        ({"loss": float("nan")}, "outside"),
    ],
)
def test_one_goal_that_can_be_is_asked_for(goal, said):
    with pytest.raises(RequestError, match=said):
        Goal(**goal).check()
