"""The second verdict: a bundle that is proved, and worse than random tokens, does not read as good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tokexport.exporter import pipeline
from tokexport.exporter.cli import main
from tokexport.exporter.evaluate import accuracy as measuring
from tokexport.exporter.evaluate.usefulness import judge
from tokexport.exporter.result import Exported

CHECK = {"part": "head", "tensor": "t", "cosine": 1.0, "norm_ratio": 1.0, "max_abs": 0.0, "ok": True, "detail": ""}


def accuracy(own: float, random: float = 0.53, uniform: float = 0.5) -> dict[str, Any]:
    baselines = {"random": {"mean": random, "deviation": 0.02, "seeds": 10}, "uniform": {"accuracy": uniform}}
    return {"questions": 512, "compressed": own, "stderr": 0.02, "uncompressed": 0.9, "baselines": baselines}


@pytest.mark.parametrize(
    ("own", "random", "uniform", "status"),
    [
        (0.52, 0.53, 0.50, "worse"),
        (0.52, 0.50, 0.53, "worse"),
        (0.54, 0.53, 0.50, "unclear"),
        (0.58, 0.53, 0.50, "useful"),
        (0.58, 0.53, 0.55, "unclear"),
    ],
)
def test_it_is_judged_by_random_and_evenly_spread_tokens(own, random, uniform, status) -> None:
    found = judge(accuracy(own, random, uniform))
    assert found.status == status and bool(found.note) == (status != "useful")
    assert f"{own:.1%} against {random:.1%} of as many random tokens" in found.text


def test_without_a_measurement_it_says_how_to_get_one() -> None:
    assert judge(None).status == "unknown" and "--inputs" in judge(None).text and judge(None).note == ""


@pytest.mark.parametrize(("own", "said"), [(0.52, "WORSE THAN CHANCE: worse than random tokens"), (0.9, "useful: 90")])
def test_the_command_gives_both_verdicts(own, said, monkeypatch, tmp_path: Path) -> None:
    result = Exported(tmp_path, "toy", "fp32", [], proof={"checks": [{**CHECK, "flipped": 0}]}, accuracy=accuracy(own))
    monkeypatch.setattr(pipeline, "export", lambda **request: result)
    done = CliRunner().invoke(main, ["model", "--method", "evs", "--ratio", "0.5"], env={"COLUMNS": "200"})
    assert f"verdict: proved; {said}" in done.stdout


def test_the_note_goes_into_the_manifest(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measuring, "measure", lambda *_: accuracy(0.4))
    out = pipeline.export(method="uniform", ratio="0.85", out=tmp_path / "b", step=lambda text: None)
    assert any(note.startswith("usefulness: worse than random") for note in out.notes)
    assert "usefulness: worse than random" in (tmp_path / "b" / "manifest.json").read_text()
    assert "WORSE THAN CHANCE" in (tmp_path / "b" / "report.html").read_text()
