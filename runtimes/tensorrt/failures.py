"""Turns TensorRT's errors into ours: what is wrong, and what to do about it.

TensorRT reports through its log, in sentences about its own source. The table lists those that have a cure.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import BundleError, GraphError, MissingError, TokexportError


class EngineError(BundleError):
    """An engine of a bundle cannot be used here."""


class EngineVersionError(EngineError):
    """It was built by another version, or another kind, of TensorRT."""


class EngineDeviceError(EngineError):
    """It was built for another GPU."""


class EngineStaleError(EngineError):
    """The graph, or the plan itself, is no longer the one that the sidecar describes."""


class BuildMemoryError(MissingError):
    """This machine has too little memory to build the engine."""


@dataclass(frozen=True)
class ParserError:
    """Why TensorRT refuses a graph.

    Attributes:
        node: name of the node, empty where TensorRT names none.
        op: its operator, empty likewise.
        reason: TensorRT's message, or the rule of `devices.rules` that was broken.
    """

    node: str
    op: str
    reason: str

    def __str__(self) -> str:
        place = " ".join(part for part in (self.op, repr(self.node) if self.node else "") if part)
        return f"{place}: {self.reason}" if place else self.reason


@dataclass(frozen=True)
class _Known:
    pattern: str
    error: type[TokexportError]
    what: str
    fix: str


_MEMORY = (
    "out of memory|OutOfMemory|could not be allocated|insufficient memory on requested size|bad_alloc|MemoryError"
    "|allocator error allocating"
)
# The parser's words where the registry has no creator for an operator.
_NO_PLUGIN = "Plugin not found"
_MEMORY_FIX = (
    "Close other programs, build one variant at a time, or export with --precision fp16. On a Jetson also stop the "
    "desktop (sudo systemctl isolate multi-user.target) and add swap."
)
# The first entry that matches a line of the log wins: causes come before their consequences.
_KNOWN = (
    _Known(
        _MEMORY,
        BuildMemoryError,
        "there is not enough memory to build the engine",
        _MEMORY_FIX,
    ),
    _Known(
        r"TopK.*exceeds the maximum|TopK.*\b3840\b",
        GraphError,
        "a TopK takes more than 3840 elements",
        "Keep fewer tokens (--keep), or use a form or method that ranks by counting.",
    ),
    _Known(
        r"[Vv]ersion tag does not match|[Mm]agic ?[Tt]ag|incompatible serialization version"
        r"|not compatible with this version",
        EngineVersionError,
        "the engine was made by another version of TensorRT",
        "Build it again here: tokexport build BUNDLE",
    ),
    _Known(
        r"incompatible device|expecting compute \d|compute capabilit\w+ .*(?:not|mismatch)",
        EngineDeviceError,
        "the engine was made for another GPU",
        "Build it again here: tokexport build BUNDLE",
    ),
    _Known(
        r"no optimization profile",
        GraphError,
        "the graph has axes without a fixed length",
        "Export it again with static shapes.",
    ),
    _Known(
        r"Could not find any implementation for node",
        GraphError,
        "TensorRT has no kernel for a node within the workspace it may use",
        "Try another --form. If it is a large MatMul or attention, the device may have too little memory for it.",
    ),
    _Known(
        r"driver version is insufficient|no CUDA-capable device|cudaErrorNoDevice|cudaErrorInsufficientDriver",
        MissingError,
        "there is no GPU here that TensorRT can use",
        "`tokexport doctor` checks driver and GPU.",
    ),
)


def translate(log: Iterable[str], *, doing: str, where: str) -> TokexportError:
    """The error behind a failed build or load.

    Args:
        log: errors and warnings of TensorRT, oldest first.
        doing: what failed, such as ``TensorRT 10.3 cannot build the engine``.
        where: the graph.
    """
    lines = [line.strip() for line in log if line.strip()]
    for known in _KNOWN:
        for line in lines:
            if re.search(known.pattern, line):
                return known.error(f"{doing}: {known.what}: {_short(line)}", where=where, fix=known.fix)
    last = _short(lines[-1]) if lines else "it gives no reason"
    fix = "Try another --form; with --debug the traceback shows where."
    return GraphError(f"{doing}: {last}", where=where, fix=fix)


def crashed(code: int, stderr: str, *, doing: str, where: str) -> TokexportError:
    """The error behind a child process that ended without an answer.

    Args:
        code: its exit code; negative for a signal.
        stderr: what it wrote there.
        doing: see `translate`.
        where: likewise.
    """
    tail = "\n".join(stderr.strip().splitlines()[-3:])
    ended = f"its process ended with {code}{f': {_short(tail)}' if tail else ''}"
    # Only the kernel's out-of-memory killer sends SIGKILL here.
    if code == -signal.SIGKILL or re.search(_MEMORY, tail):
        return BuildMemoryError(f"{doing}: there is not enough memory: {ended}", where=where, fix=_MEMORY_FIX)
    if code < 0:
        ended = f"{_signal_name(-code)}: {ended}"
    return GraphError(f"{doing}: {ended}", where=where, fix="Try another --form.")


def describe(error: Any) -> dict[str, str]:
    """An error of TensorRT's parser as the fields of `ParserError`; the reason names the function the node lies in."""
    inside = [name for name in error.local_function_stack() if name]
    reason = error.desc().strip()
    if inside:
        reason = f"{reason} (in function {' > '.join(inside)})"
    return {"node": error.node_name(), "op": error.node_operator(), "reason": reason}


def refusals(text: str) -> list[ParserError]:
    """Errors of our plugins, from the stderr of the child: TensorRT reports that a plugin failed, and not why."""
    found = re.findall(r"(?:Exception thrown .*: |^)(Tokexport\w+) '(.*?)': (.*)", text, re.MULTILINE)
    return [ParserError(node, op, reason) for op, node, reason in dict.fromkeys(found)]


def refused(error: ParserError, *, doing: str, where: str, form: str, others: Iterable[str]) -> TokexportError:
    """The error behind a node that the parser refuses: names the node, and the form to use instead.

    Args:
        error: the parser's first.
        doing: see `translate`.
        where: likewise.
        form: the one that was parsed.
        others: forms that break no rule.
    """
    text = f"{doing} ({form} form): {_short(str(error))}"
    others = [one for one in others if one != form]
    instead = f"Use --form {' or --form '.join(others)}." if others else ""
    if _NO_PLUGIN in error.reason and error.op.startswith("Tokexport"):
        fix = f"Run: tokexport plugins build. {f'Or u{instead[1:]}' if instead else ''}".strip()
        return MissingError(text, where=where, fix=fix)
    # A node outside of a compressor is the same in every form.
    ours = error.op.startswith("Tokexport") or "in function Tokexport" in error.reason
    fix = instead if ours and instead else "Change that node where the model is made."
    return GraphError(text, where=where, fix=fix)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _short(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(". ")
