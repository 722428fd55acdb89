"""How far a command is: a line a step on stderr, on a terminal a spinner or a bar, and the logger "tokexport"."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from . import interrupt, tables

LOGGER = logging.getLogger("tokexport")
_VERBOSE, _QUIET = "tokexport.verbose", "tokexport.quiet"

# Called with the name of each stage of a long command.
Progress = Callable[[str], None]
Advance = Callable[[int, int, str], None]


def log(text: str) -> None:
    """What a stage does where nobody shows it: it is logged."""
    LOGGER.info(text)


def log_of(done: int, of: int, what: str) -> None:
    """As `log`, for steps that are counted."""
    LOGGER.info("[%d/%d] %s", done, of, what)


@contextmanager
def progress() -> Iterator[Progress]:
    """Tell the name of each stage: with a spinner on a terminal, else with a line each; -q tells nothing."""
    with _shown() as console:
        if console is None:
            yield _lines()
            return
        with console.status("starting") as status:

            def step(text: str) -> None:
                interrupt.check()
                log(text)
                status.update(text)

            yield step


@contextmanager
def bar() -> Iterator[Advance]:
    """Tell (done, of, what): with a bar on a terminal, else with a line for each `what`; -q tells nothing."""
    with _shown() as console:
        if console is None:
            line = _lines()
            yield lambda done, of, what: line(what, f"[{done}/{of}] {what}")
            return
        from rich import progress as rich

        columns = (
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.description}"),
        )
        with rich.Progress(*columns, console=console) as shown:
            task = shown.add_task("opening the model", total=None)

            def advance(done: int, of: int, what: str) -> None:
                interrupt.check()
                log_of(done, of, what)
                shown.update(task, completed=done, total=of, description=what)

            yield advance


def verbose() -> bool:
    """Whether -v was given."""
    return _given(_VERBOSE)


def options(command: Any) -> Any:
    """Give a command the options -v and -q."""

    def keep(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        context.meta[f"tokexport.{parameter.name}"] = value

    kinds: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": keep}
    command = click.option("-q", "--quiet", help="No progress on stderr, only notes and errors.", **kinds)(command)
    return click.option("-v", "--verbose", help="Each step with its time.", **kinds)(command)


def _given(key: str) -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(key))


def _lines() -> Callable[..., None]:
    """Logs what was not told before, as `line` or in its own words."""
    told: set[str] = set()

    def step(text: str, line: str = "") -> None:
        interrupt.check()
        if text not in told:
            told.add(text)
            LOGGER.info(line or text)

    return step


@contextmanager
def _shown() -> Iterator[Any]:
    """While this is open the logger writes to stderr, unless -q; gives the terminal, None where there is none."""
    console = None
    if sys.stderr.isatty() and not _given(_QUIET) and not verbose():
        from rich.console import Console

        console = Console(stderr=True, color_system=None if tables.colourless() else "auto")
    handler = _Lines(logging.WARNING if console is not None or _given(_QUIET) else logging.INFO)
    before = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(min(handler.level, before or handler.level))
    try:
        yield console
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)


class _Lines(logging.Handler):
    """A line for each record on stderr; with -v behind the seconds since the start."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._start, self._timed = time.monotonic(), verbose()

    def emit(self, record: logging.LogRecord) -> None:
        seconds = f"{time.monotonic() - self._start:7.1f} s  " if self._timed else ""
        click.echo(f"{seconds}{record.getMessage()}", err=True)
