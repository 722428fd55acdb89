"""Compares the values that both sides have, in A's order, some at a time: memory stays that of a few of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..proof.metrics import Check
from .compare import Threshold, compare
from .inputs import Given
from .matching import Matches
from .sides import Side

# Of one side's values at a time, in float32; one whose size is not known counts as much as this.
_BYTES, _UNKNOWN = 256 << 20, 16 << 20


@dataclass
class Scan:
    """What comparing the matched values gave.

    Attributes:
        checks: name in A -> how far B's is from it, as far as it was compared.
        first: the first of A's values that is over the threshold; empty where none is.
    """

    checks: dict[str, Check] = field(default_factory=dict)
    first: str = ""


def scan(a: Side, b: Side, given: Given, matches: Matches, threshold: Threshold, *, whole: bool = False) -> Scan:
    """Compare until the first difference; with `whole` all of them."""
    result = Scan()
    for names in _batches(a, list(matches.pairs)):
        ours = a.read(given.a, names)
        theirs = b.read(given.b, [matches.pairs[name] for name in names])
        for name in names:
            check = compare(name, ours[name], theirs[matches.pairs[name]], threshold)
            result.checks[name] = check
            if not check.ok and not result.first:
                result.first = name
        if result.first and not whole:
            break
    return result


def _batches(a: Side, names: list[str]) -> Iterator[list[str]]:
    known, batch, size = a.by_name, list[str](), 0
    for name in names:
        shape = known[name].shape if name in known else None
        axes = [axis for axis in shape or () if axis is not None]
        bytes_ = 4 * math.prod(axes) if shape is not None and len(axes) == len(shape) else _UNKNOWN
        if batch and size + bytes_ > _BYTES:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += bytes_
    if batch:
        yield batch
