"""Tables for people: few columns, and all of them with --wide; what is there to be copied is never folded."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from typing import Any

import click

# Piped output has no width of its own.
_PIPED = 200
# Between two columns; and what a column that is folded is left at least.
_GAP, _FOLDED = 3, 12
_WIDE = "tokexport.wide"


class Table:
    """Rows of cells under named columns.

    Args:
        columns: their headings, from left to right.
        keys: those that are never folded: names to be copied. The first column always is one.
        more: those that only --wide shows.
    """

    def __init__(self, *columns: str, keys: Collection[str] = (), more: Collection[str] = ()) -> None:
        self.columns, self.keys, self.more = columns, {columns[0], *keys}, {*more} - {columns[0]}
        self.rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """A cell for each column."""
        self.rows.append(cells)

    def shown(self, *, wide: bool) -> Iterator[int]:
        """The columns that are printed: those with anything in them, and without `more` unless `wide`."""
        for i, column in enumerate(self.columns):
            if (wide or column not in self.more) and (not self.rows or any(row[i] for row in self.rows)):
                yield i


def show(table: Table) -> None:
    """Print a table as wide as the terminal, or wider where its keys need it."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table as Rich
    from rich.text import Text

    wide = is_wide()
    drawn = Rich(box=box.SIMPLE_HEAD, pad_edge=False)
    shown, least = list(table.shown(wide=wide)), 0
    for i in shown:
        whole = wide or table.columns[i] in table.keys
        longest = max(cell_len(row[i]) for row in [table.columns, *table.rows])
        drawn.add_column(table.columns[i], overflow="fold", no_wrap=whole, min_width=longest if whole else None)
        least += _GAP + (longest if whole else min(longest, _FOLDED))
    for row in table.rows:
        drawn.add_row(*(Text(row[i]) for i in shown))
    console = Console(width=width(), highlight=False, color_system=None if colourless() else "auto")
    console.width = max(console.width, least + _GAP)
    with console.capture() as printed:
        console.print(drawn)
    # Blanks at the right of a full line would begin another one.
    click.echo("\n".join(line.rstrip(" ") for line in printed.get().splitlines()), color=True)
    hidden = [column for column in table.columns if column in table.more]
    if hidden and not wide and table.rows:
        click.echo(f"more columns with --wide: {', '.join(hidden)}")


def proof_table(checks: list[dict[str, Any]]) -> None:
    """One row for each tensor that was compared."""
    rows = Table(
        "part", "tensor", "cosine", "norm ratio", "max |diff|", "flipped", "", keys={"tensor"}, more={"norm ratio"}
    )
    for check in checks:
        verdict = "ok" if check["ok"] else f"FAILED {check['detail']}"
        rows.add_row(
            check["part"],
            check["tensor"],
            f"{check['cosine']:.6f}",
            f"{check['norm_ratio']:.5f}",
            f"{check['max_abs']:.2e}",
            str(check["flipped"]) if check["part"] == "compressor" else "",
            verdict,
        )
    show(rows)


def width() -> int:
    """Columns of the output: those of the terminal or of COLUMNS."""
    return shutil.get_terminal_size((_PIPED, 24)).columns


def wrapped(first: str, text: str, colour: str | None = None) -> None:
    """Print `text` behind `first`, with its further lines below its own beginning."""
    click.secho("\n".join(folded(first, text)) or first.rstrip(), fg=colour)


def prose(text: str) -> None:
    """Print paragraphs as wide as the output; indented lines, which are formulas and lists, keep their own."""
    from itertools import groupby

    if is_wide():
        click.echo(text)
        return
    for indented, lines in groupby(text.splitlines(), lambda line: line[:1] == " " or not line):
        if not indented:
            wrapped("", " ".join(lines))
            continue
        for line in lines:
            _indented(line)


def _indented(line: str) -> None:
    """Print a line of a formula or a list; where it is too long, a remark at its right stands below it."""
    if len(line) <= width():
        click.echo(line)
    elif term := re.match(r"( *\S+ {2,})(\S.*)", line):
        wrapped(*term.groups())
    elif remark := re.match(r"( *)(\S.*?) {3,}(\S.*)", line):
        wrapped(remark[1], remark[2])
        wrapped(f"{remark[1]}    ", remark[3])
    else:
        wrapped(line[: len(line) - len(line.lstrip())], line.lstrip())


def folded(first: str, text: str) -> list[str]:
    """The lines of `text` behind `first`, as wide as the output."""
    import textwrap

    room = max(width(), len(first) + 30)
    return textwrap.wrap(
        text,
        room,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def wide_option(command: Any) -> Any:
    """Give a command the option --wide, which `show` looks for."""

    def keep(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[_WIDE] = value

    return click.option(
        "--wide", is_flag=True, expose_value=False, callback=keep, help="Tables with all columns, and nothing folded."
    )(command)


def is_wide() -> bool:
    """Whether --wide was given."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(_WIDE))


def colourless() -> bool:
    """Whether the user wants no colours: NO_COLOR is set and not empty (no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))
