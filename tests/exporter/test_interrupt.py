"""Ctrl-C that a library swallowed still stops the command at its next step."""

import os
import signal

import pytest
from click.testing import CliRunner
from tokexport.exporter import interrupt, pipeline
from tokexport.exporter.cli import main


def swallow() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass
    except KeyboardInterrupt:
        return


def test_a_swallowed_interrupt_is_remembered_until_the_next_step():
    with pytest.raises(KeyboardInterrupt), interrupt.remembered():
        interrupt.check()
        swallow()
        assert interrupt.asked()
        interrupt.check()
    with interrupt.remembered():
        assert not interrupt.asked()


@pytest.mark.parametrize("ending", ["goes on", "fails"])
def test_the_command_exits_130_whatever_came_of_the_interrupt(monkeypatch, ending):
    def export(step, **request):
        swallow()
        if ending == "fails":
            raise AttributeError("module 'torch._dynamo' has no attribute 'exc'")
        step("the next step")
        raise AssertionError("went on")

    monkeypatch.setattr(pipeline, "export", export)
    result = CliRunner().invoke(main, ["model", "--method", "apet", "--ratio", "0.5"])
    assert result.exit_code == 130 and "interrupted" in result.stderr
