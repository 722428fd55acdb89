"""What several commands share: options, and KEY=VALUE settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ...entry_points import Skipped
from ...errors import RequestError
from .. import progress

F = TypeVar("F", bound=Callable[..., Any])
OUT = click.Path(path_type=Path)


class _Plain(click.ParamType):
    """A number in the digits 0 to 9: Python also reads those of other scripts, and underscores between them."""

    def __init__(self, kind: click.ParamType) -> None:
        self._kind, self.name = kind, kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        if isinstance(value, str) and not re.fullmatch("[-+.0-9a-zA-Z]*", value.strip()):
            self.fail(f"{value!r} is not a number in the digits 0 to 9, such as 5 or 0.85.", param, ctx)
        return self._kind.convert(value, param, ctx)


WHOLE, NUMBER, POSITIVE = _Plain(click.INT), _Plain(click.FLOAT), _Plain(click.IntRange(1))


def common(command: F) -> F:
    """The options of every command with a result."""
    command = progress.options(command)
    command = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(command)
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(command)


def settings(pairs: tuple[str, ...]) -> dict[str, str]:
    """The values given with --set, by key."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RequestError(f"--set {pair!r} is not KEY=VALUE", fix="Write for example --set basis=16.")
        if key in found:
            raise RequestError(f"--set {key} was given twice", fix="Give each parameter once.")
        found[key] = value
    return found


def left_out(skipped: Iterable[Skipped | str]) -> None:
    """After a listing, on stderr: what other packages add that cannot be used, and why."""
    for one in skipped:
        click.echo(f"note: {one}", err=True)


input_shape = click.option(
    "--input-shape",
    "shapes",
    multiple=True,
    metavar="NAME=1,3,336,336",
    help="Fix a dynamic input of an ONNX file; repeatable.",
)


def sizes(pairs: tuple[str, ...]) -> dict[str, list[int]]:
    """What --input-shape said, by name."""
    found: dict[str, list[int]] = {}
    for pair in pairs:
        name, _, text = pair.rpartition("=")
        numbers = [part.strip() for part in text.split(",")]
        if not name or not all(re.fullmatch("[0-9]{1,9}", part) and int(part) for part in numbers):
            raise RequestError(
                f"--input-shape {pair!r} is not NAME=SIZES", fix="Write for example --input-shape pixels=1,3,336,336."
            )
        found[name] = [int(part) for part in numbers]
    return found


def one_input(given: Mapping[str, Path | None]) -> tuple[str, Path]:
    """The option that names the input, and its value; `given` has all of them, by name without the dashes.

    Raises:
        RequestError: none of them, or several.
    """
    found = {f"--{name}": media for name, media in given.items() if media is not None}
    if len(found) != 1:
        which = f"{' and '.join(found)} are" if found else f"none of {', '.join(f'--{name}' for name in given)} is"
        raise RequestError(f"{which} given", fix="Give the one that the model takes.")
    return next(iter(found.items()))
