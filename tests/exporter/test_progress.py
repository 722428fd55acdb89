"""Progress of a long command: a line a step on stderr, -v with times, -q nothing, and the logger "tokexport"."""

from __future__ import annotations

import json
import logging
import re

import pytest
from click.testing import CliRunner, Result
from tokexport.exporter import pipeline, progress
from tokexport.exporter.cli import main
from tokexport.exporter.result import Exported

STEPS = ("opening the model", "exporting the encoder", "exporting the encoder", "writing the report")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """An export that only tells its steps."""

    def export(step=progress.log, **request):
        for one in STEPS:
            step(one)
        return Exported(tmp_path, "toy", "fp32", [])

    monkeypatch.setattr(pipeline, "export", export)


def typed(*more: str) -> Result:
    result = CliRunner().invoke(main, ["model", "--method", "apet", "--ratio", "0.5", *more])
    assert result.exit_code == 0, result.output
    return result


def test_each_step_is_a_line_on_stderr_where_that_is_no_terminal() -> None:
    assert typed().stderr.splitlines() == ["opening the model", "exporting the encoder", "writing the report"]


def test_json_is_still_the_whole_of_stdout() -> None:
    done = typed("--json")
    assert json.loads(done.stdout)["source"] == "toy" and "writing the report" in done.stderr


def test_quiet_says_nothing_and_verbose_says_when() -> None:
    assert typed("-q").stderr == ""
    assert all(re.fullmatch(r" +\d+\.\d s  \w.*", line) for line in typed("-v").stderr.splitlines())


def test_a_python_program_gets_the_steps_by_logging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tokexport")
    pipeline.export()
    assert caplog.messages == list(STEPS)


def test_what_is_counted_gets_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar() as advance:
        advance(1, 3, "accuracy apet 21")
        advance(2, 3, "accuracy apet 36")
    assert capsys.readouterr().err.splitlines() == ["[1/3] accuracy apet 21", "[2/3] accuracy apet 36"]
