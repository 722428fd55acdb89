"""Runs fuzz targets: `python tests/fuzz/run.py [TARGET ...] [--seconds 60] [--cases N] [--seed 0]`.

An input must be read, or refused with a typed error, within the limits of time and memory. A case is told by its target
and its seed, which a finding prints: `--seed SEED --cases 1` runs it again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from targets import TARGETS, Case
from tokexport.errors import TokexportError

SECONDS = 10  # Of computing for one input; a reader needs milliseconds.
WAITING = 60  # For one input by the clock, which a busy machine lets run on.
MIB = 1500  # That one input may add to the peak.


class TooSlow(BaseException):
    """A case took longer than it may; no `except Exception` of a reader takes it for a damaged file."""


def run_one(case: Case, seed: int) -> str:
    """Run one case; what is wrong with it, empty where nothing is."""
    before = _peak()
    try:
        with _limited(), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case(random.Random(seed))
    except TokexportError as error:
        if len(str(error)) > 4000:
            return f"an error of {len(str(error))} characters: {str(error)[:300]}"
    except TooSlow:
        return f"computed for more than {SECONDS} s, or took more than {WAITING} s: {_where()}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:300]}\n{_where()}"
    added = _peak() - before
    return f"took {added} MiB" if added > MIB else ""


def run(name: str, *, seed: int, cases: int | None, seconds: float) -> list[str]:
    """Run a target until its cases or its time are used up; the findings, one of each kind."""
    findings: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as folder:
        case = TARGETS[name](Path(folder))
        end, number = time.process_time() + seconds, 0
        while time.process_time() < end and (cases is None or number < cases):
            wrong = run_one(case, seed + number)
            if wrong:
                findings.setdefault(wrong.splitlines()[-1], f"{name}, seed {seed + number}: {wrong}")
            number += 1
    print(f"{name}: {number} cases, {len(findings)} findings", flush=True)
    return list(findings.values())


def _where() -> str:
    """The innermost frames, the package's own last."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [frame for frame in frames if "tokexport" in frame.filename or "/fuzz/" in frame.filename][-4:]
    return "  " + " <- ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(own))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlow

    limits = ((signal.ITIMER_PROF, signal.SIGPROF, SECONDS), (signal.ITIMER_REAL, signal.SIGALRM, WAITING))
    before = [signal.signal(which, stop) for _, which, _ in limits]
    for timer, _, seconds in limits:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _, _ in limits:
            signal.setitimer(timer, 0)
        for (_, which, _), handler in zip(limits, before):
            signal.signal(which, handler)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="of computing, for each target")
    parser.add_argument("--cases", type=int, help="at most this many for each")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    findings = [
        finding
        for name in asked.targets or TARGETS
        for finding in run(name, seed=asked.seed, cases=asked.cases, seconds=asked.seconds)
    ]
    print("\n".join(findings))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
