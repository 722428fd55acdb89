"""The child process of `side.Side`: one bundle, that answers when it is told to, and says how long that took.

A line of JSON comes in through stdin, and one goes out through a pipe, because libraries print to the other streams.
The first one opens the bundle; an empty object has it answer once; the end of stdin ends it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from ...errors import TokexportError
from ...runtimes.tensorrt.child import told


def main() -> None:
    """Answer each line; the argument is the descriptor of the pipe."""
    stages: Any = None
    with os.fdopen(int(sys.argv[1]), "w") as pipe:
        for line in sys.stdin:
            try:
                if stages is None:
                    stages, answer = _opened(json.loads(line))
                else:
                    answer = {"taken": stages.once(), "notes": stages.session.all_notes()}
                answer |= {"cpu": time.process_time(), "peak": _peak()}
            except TokexportError as error:
                answer = {"error": told(error)}
            print(json.dumps(answer), file=pipe, flush=True)


def _opened(request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import numpy as np

    from ...runtimes.load import load
    from .sample import Proven, sample
    from .stages import Stages

    session = load(request["bundle"], request["runtime"], **request["options"])
    with np.load(request["inputs"], allow_pickle=False) as inputs:
        proven = Proven(dict(inputs), request["ids"])
    given = sample(session, request["files"], request["prompt"], proven)
    stages = Stages(session, given, request["tokens"])
    return stages, {"input": given.said, "notes": given.notes, "most": stages.most, "stages": stages.names}


def _peak() -> int | None:
    """The most bytes of memory that this process ever held; `ru_maxrss` would count those of who started it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    main()
