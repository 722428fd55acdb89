"""The process in which a builder runs: what goes to it, what comes back, and how it may end."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pytest
from tokexport.errors import GraphError, MissingError
from tokexport.runtimes.tensorrt import child
from tokexport.runtimes.tensorrt.failures import BuildMemoryError

# Replaces the task by a function that the test writes; all else is the real worker.
_WORKER = """
import sys, types
from tokexport.runtimes.tensorrt import worker
{body}
module = types.ModuleType("toy")
module.run = run
worker.importlib.import_module = lambda name, package: module
worker.main()
"""


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(body: str, request: Any = None, **keywords: Any) -> child.Answer:
        command = [sys.executable, "-c", _WORKER.format(body=body)]
        monkeypatch.setattr(child, "command", lambda: command)
        return child.call("rtx", request or {}, doing="It cannot build", where="graph g", **keywords)

    return call


def test_a_request_of_any_size_goes_there_and_the_answer_and_progress_come_back(task: Any) -> None:
    heard: list[tuple[float, str]] = []
    body = """
def run(request, tell):
    print("noise"); print("a warning", file=sys.stderr)
    tell(0.5, "half"); tell(1.0, "done")
    return {"n": len(request["text"])}
"""
    # One argument of a process holds 128 KiB.
    answer = task(body, {"text": "x" * 300_000}, progress=lambda *told: heard.append(told))
    assert answer.result == {"n": 300_000} and answer.stderr == "a warning\n"
    assert heard == [(0.5, "half"), (1.0, "done")]


@pytest.mark.parametrize("kind", ["errors.MissingError", "runtimes.tensorrt.failures.BuildMemoryError"])
def test_what_a_task_raises_keeps_its_kind_place_and_cure(task: Any, kind: str) -> None:
    module, _, name = kind.rpartition(".")
    body = f"from tokexport.{module} import {name}\ndef run(*_): raise {name}('no such', where='there', fix='Get it.')"
    with pytest.raises(MissingError) as caught:
        task(body)
    assert type(caught.value).__name__ == name and str(caught.value) == "no such (there). Get it."


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        ("os.abort()", GraphError, "cannot build: SIGABRT: its process ended with -6: last words"),
        ("os.kill(os.getpid(), 9)", BuildMemoryError, "not enough memory: its process ended with -9: last words"),
        ("raise MemoryError", BuildMemoryError, "not enough memory: its process ended with 1: .*MemoryError"),
        ("raise ValueError('odd')", GraphError, "its process ended with 1: .*ValueError: odd"),
        ("os._exit(0)", GraphError, "its process ended with 0: last words"),
    ],
)
def test_a_child_without_an_answer_is_an_error_that_says_how_it_ended(
    task: Any, end: str, kind: type, words: str
) -> None:
    body = f"import os\ndef run(*_):\n    print('last words', file=sys.stderr, flush=True)\n    {end}"
    with pytest.raises(kind, match=words) as caught:
        task(body)
    assert type(caught.value) is kind and "graph g" in str(caught.value)


def test_half_an_answer_is_none(task: Any) -> None:
    body = """
import os, pathlib
def run(*_): return {}
pathlib.Path.replace = lambda self, to: os._exit(4)
"""
    with pytest.raises(GraphError, match="ended with 4"):
        task(body)


def test_its_last_words_are_cut(task: Any) -> None:
    body = "def run(*_):\n    print('x' * 3_000_000, file=sys.stderr, flush=True)\n    sys.exit(3)"
    with pytest.raises(GraphError, match=r"ended with 3: x{300} "):
        task(body)


def test_a_child_is_stopped_at_its_time_limit_and_when_we_are_interrupted(task: Any) -> None:
    body = "import os, time\ndef run(request, tell):\n    tell(0, str(os.getpid()))\n    time.sleep(20)"
    pids: list[int] = []
    start = time.monotonic()
    with pytest.raises(GraphError, match="cannot build: it was stopped after 2 seconds"):
        task(body, timeout=2, progress=lambda share, text: pids.append(int(text)))

    def interrupted(share: float, text: str) -> None:
        pids.append(int(text))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        task(body, progress=interrupted)
    assert time.monotonic() - start < 20
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
