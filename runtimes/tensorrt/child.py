"""Runs a task of `worker.py` in a process of its own: a crash there does not end this one, and its memory is returned.

The two share a folder: the request and the answer are JSON files in it, because the libraries print to both streams.
Progress comes through a pipe, one JSON list a line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ... import errors
from . import failures
from .wheel import environment

# (share done 0..1, what is going on).
Progress = Callable[[float, str], None]
REQUEST, ANSWER = "request.json", "answer.json"

# Of stderr: enough for every refusal of a plugin, and a log without end fits into memory.
_STDERR_BYTES = 1 << 20


@dataclass(frozen=True)
class Answer:
    """The answer of a task.

    Attributes:
        result: what its `run` returned.
        stderr: the last MiB of it, with the messages of the libraries.
    """

    result: dict[str, Any]
    stderr: str


def call(
    task: str,
    request: Mapping[str, Any],
    *,
    doing: str,
    where: str = "",
    progress: Progress = lambda share, text: None,
    timeout: float | None = None,
) -> Answer:
    """Run a task in a child process and wait for its answer.

    Args:
        task: one of `worker.TASKS`.
        request: what its `run` takes; must be JSON.
        doing: for errors, such as ``TensorRT 10.3 cannot build the engine``.
        where: likewise, the graph.
        progress: called with what the task reports.
        timeout: seconds; None: no limit.

    Raises:
        TokexportError: what the task raised, of the same kind.
        BuildMemoryError: the child ran out of memory.
        GraphError: it crashed, or was stopped at its time limit.
    """
    with tempfile.TemporaryDirectory(prefix="tokexport-child-") as scratch:
        folder = Path(scratch)
        (folder / REQUEST).write_text(json.dumps({"task": task, "request": request}))
        code = _run(folder, progress, timeout)
        stderr = end_of(folder / "stderr")
        if code is None:
            raise errors.GraphError(f"{doing}: it was stopped after {timeout:g} seconds", where=where)
        if not (folder / ANSWER).is_file():
            raise failures.crashed(code, stderr, doing=doing, where=where)
        answer = json.loads((folder / ANSWER).read_text())
    if error := answer.get("error"):
        raise raised(error)
    return Answer(answer["result"], stderr)


def told(error: errors.TokexportError) -> dict[str, str]:
    """An error as JSON, of which `raised` makes it again in another process."""
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}


def raised(error: Mapping[str, str]) -> errors.TokexportError:
    """The error that `told` wrote down."""
    kind = next((found for home in (errors, failures) if (found := getattr(home, error["kind"], None))), None)
    made: errors.TokexportError = (kind or errors.GraphError)(error["what"], where=error["where"], fix=error["fix"])
    return made


def _run(folder: Path, progress: Progress, timeout: float | None) -> int | None:
    """The exit code, negative for a signal; None where it was stopped at the time limit."""
    child, lines = started([*command(), str(folder)], folder)
    with lines:
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(timeout or 0, stop)
        timer.daemon = True
        if timeout is not None:
            timer.start()
        try:
            for line in lines:
                # A child that is killed may leave half a line.
                if line.endswith("\n"):
                    progress(*json.loads(line))
            code = child.wait()
        finally:
            timer.cancel()
            child.kill()
            child.wait()
    return None if late.is_set() and code < 0 else code


def started(
    command: Sequence[str], folder: Path, stdin: int = subprocess.DEVNULL
) -> tuple[subprocess.Popen[bytes], TextIO]:
    """Start a child, and open what it tells.

    Args:
        command: what starts it; the descriptor follows that it writes lines to.
        folder: of its own, for caches; its stderr goes to a file of that name there.
        stdin: as `subprocess.Popen` takes it.

    Returns:
        (the child, its lines), to be ended and closed by the caller.
    """
    reading, writing = os.pipe()
    lines = os.fdopen(reading)
    try:
        with (folder / "stderr").open("wb") as stderr:
            child = subprocess.Popen(
                [*command, str(writing)],
                env=environment(folder),
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(writing,),
            )
    except BaseException:
        lines.close()
        raise
    finally:
        os.close(writing)
    return child, lines


def command() -> list[str]:
    """What starts the child; the folder and the descriptor of the pipe follow."""
    return [sys.executable, "-m", f"{__package__}.worker"]


def end_of(path: Path) -> str:
    """The last of what a child wrote to stderr."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _STDERR_BYTES, 0))
        return file.read().decode(errors="replace")
