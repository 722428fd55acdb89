"""Small encoders in as many spellings as there are: each is compressed and right, or refused with place and cure."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from spelled_check import outcome
from spellings import Spelling, spellings

# The same cases on every machine, and no file beside the tests.
FIXED = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
SIMPLIFIED = ("onnxslim", "onnxsim", "basic", "extended")
QUANTISED = ("dynamic", "qdq")


def share_compressed(examples: int, *tools: str) -> float:
    """Try that many spellings after any of `tools`; the share of them that was not refused."""
    seen: Counter[str] = Counter()

    @settings(FIXED, max_examples=examples)
    @given(spellings(tools))
    def each(spelling: Spelling) -> None:
        seen[outcome(spelling)] += 1

    each()
    return seen["equal"] / seen.total()


def test_what_an_exporter_writes_is_compressed_rightly_or_refused() -> None:
    assert share_compressed(380, "") > 0.3


def test_what_a_simplifier_leaves_is_compressed_rightly_or_refused() -> None:
    pytest.importorskip("onnxslim")
    pytest.importorskip("onnxsim")
    assert share_compressed(90, *SIMPLIFIED) > 0.15


def test_what_a_quantiser_leaves_is_compressed_rightly_or_refused() -> None:
    assert share_compressed(40, *QUANTISED) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("tools, examples", [(("",), 15_000), (SIMPLIFIED, 4_000), (QUANTISED, 1_000)])
def test_twenty_thousand_spellings(tools: tuple[str, ...], examples: int) -> None:
    assert share_compressed(examples, *tools) > 0.05
