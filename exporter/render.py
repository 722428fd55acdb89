"""What the commands print: JSON for machines, a value as text, progress on stderr; `tables` has the tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from . import interrupt

# Called with the name of each stage of a long command.
Progress = Callable[[str], None]


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """A spinner on stderr that names the current stage; silent where stderr is not a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda text: interrupt.check()
        return
    with console.status("starting") as status:

        def step(text: str) -> None:
            interrupt.check()
            status.update(text)

        yield step


@contextmanager
def bar(*, quiet: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr for (done, of, what); silent where stderr is not a terminal."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.description}"),
    )
    with rich.Progress(*columns, console=console, disable=quiet or not console.is_terminal) as shown:
        task = shown.add_task("opening the model", total=None)

        def advance(done: int, of: int, what: str) -> None:
            interrupt.check()
            shown.update(task, completed=done, total=of, description=what)

        yield advance


def result(data: Any, as_json: bool, human: Callable[[Any], None]) -> None:
    """Print `data` as JSON, or through `human` for a person."""
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        human(data)


def flat(value: Any) -> str:
    """A value as the text of one cell: 12x12 for a list of integers; a dictionary without its None values."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={flat(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value)) if all(isinstance(v, int) for v in value) else "; ".join(map(flat, value))
    return "" if value is None else str(value)
