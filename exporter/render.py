"""What the commands print: JSON for machines, and a value as text; `tables` has the tables for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click


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


def milliseconds(number: float) -> str:
    """A time of up to three digits, in ms or s."""
    return f"{number / 1e3:.3g} s" if number >= 999.5 else f"{number:.3g} ms"
