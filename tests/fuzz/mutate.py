"""Small changes to bytes and to JSON: what a damaged disk, a careless editor, or somebody who means harm would do."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

_BYTES = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff" * 4,
    b"\0" * 8,
    b"\x7f" + b"\xff" * 7,
    b"NaN",
    b"%n",
    b"\xed\xa0\x80",
)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "a", "\0", "../..", "/etc/passwd", "x" * 300, "\ud800", "%s", "1", "float32", [], {}, [[]], [1, None], {"a": 1},
)  # fmt: skip


def bytes_of(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits, spans that are cut, doubled or replaced, numbers at the edges of their types."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(found) + 1)
        span = min(len(found) - at, rng.choice((1, 2, 4, 8, 64, len(found))))
        kind = rng.randrange(6)
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[at : at + span]
        elif kind == 2:
            found[at:at] = found[at : at + span]
        elif kind == 3:
            found[at:at] = rng.choice(_BYTES)
        elif kind == 4:
            text = rng.choice(_BYTES)
            found[at : at + len(text)] = text
        else:
            found[at : at + span] = rng.randbytes(span if span < 65 else 8)
    return bytes(found)


def json_of(value: Any, rng: random.Random) -> Any:
    """A copy with one to three of its values replaced, removed, doubled, renamed or nested deeply."""
    found = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(found))
        if not places:
            return rng.choice(_VALUES)
        holder, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 2 and isinstance(holder, dict):
            holder[str(rng.choice(_VALUES))] = holder.pop(key)
        elif kind == 3:
            holder[key] = copy.deepcopy(rng.choice(places)[0])
        elif kind == 4 and isinstance(holder[key], (int, float)):
            holder[key] += rng.choice((-1, 1, 1000, 2**31))
        elif kind == 5:
            for _ in range(rng.choice((3, 100))):
                holder[key] = [holder[key]]
        else:
            holder[key] = copy.deepcopy(rng.choice(_VALUES))
    return found


def text_of(value: Any, rng: random.Random) -> bytes:
    """JSON of a changed value, and now and then of a value that is changed as bytes, or nested without end."""
    if rng.random() < 0.02:
        return b"[" * 200_000
    if rng.random() < 0.2:
        return bytes_of(json.dumps(value).encode(), rng)
    return json.dumps(json_of(value, rng)).encode()


def _places(value: Any) -> Any:
    """(holder, key) of everything inside."""
    todo = [value]
    while todo:
        holder = todo.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in list(keys):
            yield holder, key
            todo.append(holder[key])
