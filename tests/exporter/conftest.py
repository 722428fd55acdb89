"""What the tests of bad input share, and fewer questions for exports inside the tests' own process."""

from __future__ import annotations

import pytest
from bad_input import snapshot
from click.testing import CliRunner


@pytest.fixture(scope="session", autouse=True)
def fewer_questions():
    """The real number is asked where the command line is typed in a process of its own (test_model_command)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokexport.exporter.pipeline.QUESTIONS", 64)
        yield


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Run the command; assert the exit code, one paragraph with all the words, and an untouched folder."""
    from tokexport.exporter.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, says: tuple[str, ...], code: int = 2) -> str:
        before = snapshot(tmp_path)
        result = CliRunner().invoke(main, [*map(str, arguments), "-q"])
        assert result.exit_code == code, result.output
        assert result.stderr.count("\n") == 1 and "Traceback" not in result.output, result.output
        for words in says:
            assert words in result.stderr, result.stderr
        assert snapshot(tmp_path) == before
        assert not list(tmp_path.glob(".*tokexport*"))
        return result.stderr

    return run
