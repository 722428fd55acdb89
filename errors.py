"""The errors tokexport raises: what is wrong, where, and what to do next.

Every error a user can cause is a `TokexportError`. The command line prints it as one paragraph and exits with its
`exit_code`; it shows no traceback unless `--debug` asks for one. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class TokexportError(Exception):
    """Base of all errors: one paragraph made of what is wrong, where, and how to go on.

    Args:
        what: the fact, with the offending value in it.
        where: the graph, node, tensor (with shape), file or option it was found in.
        fix: what to type or change next.
        example: lines to start from, which `fix` speaks of; the command line prints them on stdout.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "", example: str = "") -> None:
        # Both may quote a file, where a name can have any length.
        what, where = shortened(what), shortened(where)
        self.what, self.where, self.fix, self.example = what, where, fix, example
        parts = [what.rstrip("."), f"({where})" if where else ""]
        sentence = " ".join(part for part in parts if part) + "."
        super().__init__(f"{sentence} {fix}".strip())


class RequestError(TokexportError):
    """The request itself is wrong: an unknown method, a ratio outside (0, 1), a seam that does not exist."""


class GraphError(TokexportError):
    """A model cannot be read, or its graph cannot live with the change that was asked for."""


class BundleError(TokexportError):
    """A bundle on disk is damaged, incomplete, too new, or in the way."""


class MissingError(TokexportError):
    """Something this needs is not on this machine; `fix` is the command that gets it."""

    exit_code = 3


class UnprovableError(MissingError):
    """Nothing here can compute what a bundle computes, whatever is installed: it is neither proved nor disproved."""


class GateError(TokexportError):
    """A proof or an accuracy gate failed: the result exists but must not be used."""

    exit_code = 1


def nearest(name: str, known: Iterable[str], *, kind: str) -> str:
    """Say which known names are close to a wrong one, and list them all.

    Returns:
        A sentence such as ``Did you mean apet? Known methods: apet, topk.``
    """
    names = sorted(known)
    return f"{alike(name, names)}Known {kind}: {_listed(names)}."


def alike(name: str, known: Iterable[str]) -> str:
    """Say which known names are close to a wrong one, as ``Did you mean apet? ``; nothing where none is."""
    names = sorted(known)
    same = {re.sub(r"[^a-z0-9]", "", other.lower()): other for other in reversed(names)}
    found = same.get(re.sub(r"[^a-z0-9]", "", str(name).lower()))
    close = [found] if found else difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}? " if close else ""


def shortened(text: str, most: int = 1200) -> str:
    """A text of at most `most` characters: of a longer one the beginning and the end."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 4 :]}"


def _listed(names: list[str], most: int = 2000) -> str:
    """The names, those at the end counted alone where there are more than `most` characters."""
    fit = sum(end <= most for end in itertools.accumulate(len(name) + 2 for name in names))
    if fit == len(names):
        return ", ".join(names) or "none"
    return f"{', '.join(names[:fit])} and {len(names) - fit} more" if fit else f"{len(names)}, with long names"


def first_line(error: BaseException, most: int | None = None) -> str:
    """The first line of an error's text, at most `most` characters of it; its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def reason(error: BaseException, most: int | None = None) -> str:
    """What the system says of a failed call, without number and path; of other errors the first line."""
    said = getattr(error, "strerror", None)
    return str(said)[:most] if said else first_line(error, most)


def invalid(error: ValidationError) -> str:
    """The first thing that pydantic found, as ``wrong at key.0.name: why``."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"wrong{f' at {place}' if place else ''}: {first['msg'].removeprefix('Value error, ')}"
