"""The child process of `child.call`: reads the request, runs its task, writes the answer."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

from ...errors import TokexportError
from .child import ANSWER, REQUEST, told

# Task -> module beside this one with `run(request, tell)`, which returns JSON. `tell(share, text)` reports
# progress.
TASKS = {"engine": ".engines.task", "rtx": ".rtx_task"}


def main() -> None:
    """Answer the request in the folder that the command line names; its second argument is the pipe of progress."""
    folder = Path(sys.argv[1])
    message = json.loads((folder / REQUEST).read_text())
    with os.fdopen(int(sys.argv[2]), "w") as pipe:

        def tell(share: float, text: str) -> None:
            print(json.dumps([share, text]), file=pipe, flush=True)

        task = importlib.import_module(TASKS[message["task"]], __package__)
        try:
            answer = {"result": task.run(message["request"], tell)}
        except TokexportError as error:
            answer = {"error": told(error)}
    # Atomically: a process that crashes while it writes has given no answer.
    part = folder / f"{ANSWER}.part"
    part.write_text(json.dumps(answer))
    part.replace(folder / ANSWER)


if __name__ == "__main__":
    main()
