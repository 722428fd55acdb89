"""The cells of a sweep: one figure each, written to a file at once, so that nothing is computed twice."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import RequestError

FILE, TABLE, PICTURE = "cells.jsonl", "sweep.json", "sweep.png"

Value = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One figure of a sweep.

    Attributes:
        key: everything that the figure depends on; JSON.
        compute: returns the figure, a JSON object.
    """

    key: dict[str, Any]
    compute: Callable[[], Value]

    @property
    def name(self) -> str:
        """The key as one string."""
        return json.dumps(self.key, sort_keys=True)

    @property
    def timed(self) -> bool:
        """Whether the figure is a time, which is only right while nothing else computes here."""
        return self.key["what"] != "answers"


# Gives the figures of cells, each as soon as it is known.
Values = Generator[tuple[Cell, Value], None, None]
Compute = Callable[[Sequence[Cell]], Values]


def in_turn(cells: Sequence[Cell]) -> Values:
    """One after the other, in this process."""
    for cell in cells:
        yield cell, cell.compute()


class Cells:
    """The figures that a folder has already, and those that are added.

    The file has one line for each: ``{"key": {...}, "value": {...}}``. A last line without a newline was interrupted
    while it was written, and is computed again.

    Args:
        folder: made if it is not there.

    Raises:
        RequestError: the file is not one of a sweep, the folder cannot be made, or a file to be written is a link.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"the folder for the results cannot be made: {error}", fix="Name another one: -o FOLDER."
            ) from None
        for name in (FILE, TABLE, PICTURE):
            # A folder may come from another machine, and its links would have files elsewhere written over.
            if (folder / name).is_symlink():
                raise RequestError(
                    f"{name} is a symbolic link, and the results would be written where it leads",
                    where=str(folder),
                    fix=f"Name another folder with -o, or delete the link: rm {shlex.quote(str(folder / name))}",
                )
        self._file = folder / FILE
        self._known: dict[str, Value] = {}
        if self._file.exists():
            self._load()

    def __contains__(self, cell: Cell) -> bool:
        return cell.name in self._known

    def __getitem__(self, cell: Cell) -> Value:
        return self._known[cell.name]

    def complete(self, cells: Iterable[Cell], done: Callable[[Cell], None], compute: Compute = in_turn) -> None:
        """Compute the missing cells, and write each as soon as it is known; call `done` after each cell."""
        missing = []
        for cell in cells:
            if cell in self:
                done(cell)
            else:
                missing.append(cell)
        # Closed at once where it is interrupted: others may be computing for it.
        with closing(compute(missing)) as values:
            for cell, value in values:
                with self._file.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"key": cell.key, "value": value}, allow_nan=False) + "\n")
                self._known[cell.name] = value
                done(cell)

    def _load(self) -> None:
        try:
            text = self._file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise self._foreign(str(error)) from None
        whole, _, rest = text.rpartition("\n")
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                name, value = json.dumps(entry["key"], sort_keys=True), entry["value"]
                if not isinstance(value, dict) or not isinstance(entry["key"], dict):
                    raise TypeError("key and value must be objects")
            except (ValueError, KeyError, TypeError) as error:
                raise self._foreign(f"line {number}: {type(error).__name__}: {error}") from None
            self._known[name] = value
        if rest:
            self._file.write_text(whole + "\n" if whole else "", encoding="utf-8")

    def _foreign(self, why: str) -> RequestError:
        return RequestError(
            f"{FILE} is damaged or not of a sweep ({why})",
            where=str(self._file),
            fix="Name another folder with -o, or delete this file to begin again.",
        )
