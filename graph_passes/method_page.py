"""Everything about one method, as `tokexport methods NAME` prints it: read from its card and its docstrings."""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from typing import Any, Literal, get_args, get_origin

from .compressors import compressor_class, make, table_row

_SECTION = re.compile(r"^(?P<names>\w+(?:, \w+)*):(?: |$)(?P<text>.*)$")
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}
_LIGHT = "at real size at most 1,500 nodes, and 1 % of an encoder's time"


def page(name: str) -> dict[str, Any]:
    """The row of `tokexport methods`, and more.

    Returns:
        The keys of the row, and ``parameters`` (name, default, values, meaning), ``domain`` (which counts it takes),
        ``cost`` (of its body, one sentence) and ``about`` (the docstring of its file: the formula, and where it differs
        from the paper).

    Raises:
        RequestError: an unknown method; the nearest are listed.
    """
    cls = compressor_class(name)
    row = table_row(make(name))
    meanings, kinds = _meanings(cls), typing.get_type_hints(cls)
    about = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or cls.__doc__ or "")
    found = [
        {
            "name": key,
            "default": default,
            "values": _values(kinds[key]),
            "meaning": meanings.get(key, ""),
        }
        for key, default in row["params"].items()
    ]
    cost = f"heavy: {row['heavy']}" if row["heavy"] else _LIGHT
    return {**row, "parameters": found, "domain": _domain(cls, about), "cost": cost, "about": about}


def _meanings(cls: type) -> dict[str, str]:
    """Parameter -> what the class that defines it says of it under ``Attributes:``."""
    found: dict[str, str] = {}
    for one in cls.__mro__:
        _, _, text = inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")
        names: list[str] = []
        for line in text.splitlines():
            if line and not line.startswith(" "):
                break
            entry = _SECTION.match(line[4:])
            if entry:
                names = [name for name in entry["names"].split(", ") if name not in found]
                found |= dict.fromkeys(names, entry["text"])
            else:
                found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def _values(kind: Any) -> str:
    """The values that a parameter takes, in words."""
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    return _KINDS.get(getattr(kind, "__name__", ""), str(kind))


def _domain(cls: Any, about: str) -> str:
    """The counts it takes: what the file says of its domain, else what its check says."""
    said = re.search(r"Domain: (.*?\.)(?:\s|$)", about, re.DOTALL)
    return " ".join((said[1] if said else inspect.cleandoc(cls.check.__doc__ or "").split("\n\n")[0]).split())
