"""A bundle in a process of its own, whose peak of memory is its own, and in which nothing of another bundle runs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...errors import GraphError
from ...runtimes.tensorrt.child import end_of, raised, started
from .gauges import Counter, gpu_memory


class Side:
    """Starts the process, and opens the bundle in it.

    Args:
        path: of the bundle, as it was given.
        variant: of it.
        request: what `worker` opens: bundle, runtime, options, files, prompt, ids, tokens; inputs are arrays.
        counters: of energy.

    Attributes:
        opened: what the worker said of it.
        cpu: seconds that it computed so far.
        peak: the most bytes of memory that it held; None where the system does not tell.
        gpu: bytes of a GPU's, likewise.
        notes: of how its graphs were run.

    Raises:
        TokexportError: the bundle cannot be opened or run, as `load` says.
        GraphError: the process crashed.
    """

    def __init__(self, path: Path, variant: str, request: Mapping[str, Any], counters: list[Counter]) -> None:
        import numpy as np

        self.path, self.variant, self._counters, self._ends = path, variant, counters, ExitStack()
        self.peak: int | None = None
        self.gpu: int | None = None
        self.notes: list[str] = []
        self._folder = Path(self._ends.enter_context(tempfile.TemporaryDirectory(prefix="tokexport-bench-")))
        inputs = self._folder / "inputs.npz"
        np.savez(inputs, **request["inputs"])
        try:
            self._start()
            self.opened = self._ask({**request, "inputs": str(inputs)})
        except BaseException:
            self.close()
            raise

    def once(self) -> dict[str, Any]:
        """One answer: what `Stages.once` says, and under ``joules`` what each counter counted meanwhile."""
        before = [counter.joules() for counter in self._counters]
        answer = self._ask({})
        joules = {one.name: one.joules() - start for one, start in zip(self._counters, before)}
        self.notes = answer["notes"]
        return {**answer["taken"], "joules": joules}

    def look_at_gpu(self) -> None:
        """Remember the memory of a GPU that it holds now: what was taken once, runtimes keep."""
        self.gpu = gpu_memory(self._process.pid)

    def close(self) -> None:
        """End the process."""
        self._ends.close()

    def _start(self) -> None:
        command = [sys.executable, "-m", f"{__package__}.worker"]
        self._process, self._answers = started(command, self._folder, subprocess.PIPE)
        self._ends.callback(self._answers.close)
        self._ends.callback(self._end)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            code, said = self._process.wait(), end_of(self._folder / "stderr").strip().splitlines()[-1:]
            raise GraphError(
                f"its process ended with {code}: {(said or ['no word of why'])[0]}",
                where=f"{self.path} ({self.variant})",
                fix="Memory may have run out; else see whether `tokexport run` fails too.",
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise raised(answer["error"])
        self.cpu, self.peak = answer["cpu"], answer["peak"]
        return answer
