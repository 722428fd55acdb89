"""Cures that fit: fp32 is no cure for a graph that is in fp32."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tokexport.exporter.proof.gate import what_to_try
from tokexport.exporter.result import Exported
from tokexport.runtimes.generate import _of_nan


def result(precision: str, *, ok: bool) -> Exported:
    measured = {"compressed": 0.5, "uncompressed": 0.95}
    return Exported(Path("b"), "toy", precision, [], proof={"checks": [{"part": "head", "ok": ok}]}, accuracy=measured)


@pytest.mark.parametrize(
    ("precision", "ok", "says", "says_not"),
    [
        ("fp16", False, "--precision fp32", "kcenter_merge"),
        ("fp32", False, "wrong, at any precision", "--precision"),
        ("fp32", True, "Removing fewer tokens", "--precision"),
        ("fp16", True, "Removing fewer tokens", "--precision"),
    ],
)
def test_after_a_failed_gate(precision: str, ok: bool, says: str, says_not: str) -> None:
    cure = what_to_try([result(precision, ok=ok)], 0.9)
    assert says in cure and says_not not in cure


@pytest.mark.parametrize(("weights", "says"), [("int8", "Measure"), ("int4", "Use --llm-weights int8. Or: Measure")])
def test_after_too_little_agreement(weights: str, says: str) -> None:
    checks = [{"part": "head", "ok": True}, {"part": "agreement", "ok": False}]
    failed = Exported(Path("b"), "toy", "fp16", [], proof={"checks": checks}, llm_weights={"weights": weights})
    assert what_to_try([failed], None).startswith(says)


@pytest.mark.parametrize(("precision", "says"), [("fp16", "--precision fp32"), ("fp32", "check the input")])
def test_after_nan(precision: str, says: str) -> None:
    variant = SimpleNamespace(graphs={"decode": SimpleNamespace(precision=precision)})
    cure = _of_nan(variant, "decode")  # type: ignore[arg-type]
    assert says in cure and (precision == "fp16" or "--precision" not in cure)
