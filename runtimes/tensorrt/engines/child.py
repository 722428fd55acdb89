"""Runs the builder in a process of its own: what ends that one does not end ours, and its memory is given back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .... import errors
from ..failures import killed
from ..rtx import environment

# (done, of) of the build, and what is going on.
Progress = Callable[[float, str], None]


def call(request: Mapping[str, Any], progress: Progress, *, doing: str, where: str) -> dict[str, Any]:
    """Have `engine_worker` answer a request.

    Args:
        request: see `engine_worker.run`.
        progress: hears (share done 0..1, what is going on).
        doing: for errors, such as ``TensorRT 10.3 cannot build the engine``.
        where: likewise, the graph.

    Returns:
        Its answer, and as ``stderr`` what it and the libraries in it wrote there.

    Raises:
        TokexportError: what the child found missing or wrong.
        BuildMemoryError: the system ended the child for memory.
        GraphError: the child ended without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="tokexport-build-") as scratch:
        answer, said = Path(scratch) / "answer.json", Path(scratch) / "stderr"
        ours, theirs = os.pipe()
        text = json.dumps({**request, "answer": str(answer), "progress": theirs})
        # The libraries print to both streams, so progress has a pipe of its own and the answer a file.
        with said.open("wb") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker", text],
                env=environment(Path(scratch)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(theirs,),
            )
        os.close(theirs)
        try:
            with os.fdopen(ours) as lines:
                for line in lines:
                    progress(*json.loads(line))
            code = child.wait()
        finally:
            child.kill()
            child.wait()
        if not answer.is_file():
            tail = " ".join(said.read_text(errors="replace").strip().splitlines()[-3:])
            raise killed(code, tail, doing=doing, where=where)
        result: dict[str, Any] = json.loads(answer.read_text())
        text = said.read_text(errors="replace")
    if error := result.get("error"):
        kind = getattr(errors, error.pop("kind"), errors.GraphError)
        raise kind(error.pop("what"), **error)
    return {**result, "stderr": text}
