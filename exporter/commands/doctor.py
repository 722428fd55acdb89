"""`tokexport doctor`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from .. import render, tables
from .shared import OUT, common

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command(short_help="Check this machine, or a bundle on it.")
@click.option("--bundle", type=OUT, help="Also check this bundle against the machine.")
@click.option(
    "--deep", is_flag=True, help="Also import torch and the other packages that exporting needs; takes seconds."
)
@common
def doctor(bundle: Path | None, deep: bool, as_json: bool) -> None:
    """Check this machine (packages, runtimes, GPU, tools); each warning and problem comes with the command to fix it.

    Exit code 3 when something that is installed here cannot work, 2 where there is no such bundle. Warnings name what
    is missing, and leave the exit code 0.
    """
    from ..doctor import diagnose, sound
    from ..doctor.machine import this_machine

    report = diagnose(this_machine(), bundle, deep=deep)
    data = {
        "ok": sound(report),
        "families": {family: [dataclasses.asdict(one) for one in findings] for family, findings in report},
    }
    render.result(data, as_json, examined)
    if not data["ok"]:
        sys.exit(3)


def examined(data: dict[str, Any]) -> None:
    """Print the result of `tokexport doctor`, without rich, which may be what is broken."""
    counts = dict.fromkeys(_COLOURS, 0)
    for family, findings in data["families"].items():
        if findings:
            click.echo(f"\n{family}")
        for one in findings:
            counts[one["status"]] += 1
            status = click.style(f"{one['status']:8}", fg=_COLOURS[one["status"]])
            first, *more = tables.folded(f"  {one['status']:8} {one['name']:16} ", one["what"])
            click.echo("\n".join([first.replace(f"{one['status']:8}", status, 1), *more]))
            if one["fix"][:1].isupper():
                tables.wrapped(f"{'':28}-> ", one["fix"])
            elif one["fix"]:
                # A command is copied, and so stays in one piece.
                click.echo(f"{'':28}-> {one['fix']}")
    click.echo(f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['problem']} problems")
