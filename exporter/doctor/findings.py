"""What a probe reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OK: Literal["ok"] = "ok"
WARNING: Literal["warning"] = "warning"
PROBLEM: Literal["problem"] = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was checked.
        status: ok; warning: something is missing or works in part, and nothing else needs it; problem: something
            that is installed here cannot work.
        what: what was found.
        fix: the command that fixes it; every warning and problem has one.
    """

    name: str
    status: Literal["ok", "warning", "problem"]
    what: str
    fix: str = ""


def version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.13.0+cpu is (2, 13, 0)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        digits = part[: next((i for i, sign in enumerate(part) if not sign.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
