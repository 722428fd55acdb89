"""The inputs that both sides are given: those of a file, those that a module brought along, or seeded random ones."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import RequestError, nearest
from ..proof import archive
from .sides import Arrays, Feeds, Input, Shape, Side


@dataclass(frozen=True)
class Given:
    """What both sides are given.

    Attributes:
        a: by the names of A's inputs.
        b: by those of B's.
        source: where they come from, for people.
    """

    a: Arrays
    b: Arrays
    source: str


def from_file(path: Path) -> Arrays:
    """The arrays of an .npz.

    Raises:
        RequestError: no such file, or it is damaged.
    """
    try:
        with archive.opened(path) as opened:
            return {name: opened[name] for name in opened.names()}
    except archive.DamagedError as error:
        raise RequestError(
            f"{path} cannot be read: {error}",
            fix="It is an .npz of arrays by the names of inputs: np.savez('inputs.npz', pixel_values=...).",
        ) from None


def given(a: Side, b: Side, arrays: Feeds | None, seed: int, file: str) -> Given:
    """Inputs for both.

    Args:
        a: its names are tried first.
        b: an input is A's of the same name, otherwise the one at the same place.
        arrays: of `file`, where there is one.
        seed: of random inputs.
        file: for errors.

    Raises:
        RequestError: an input is missing, holds NaN or inf, or does not fit; or A and B take different inputs.
    """
    partner = partners(a, b)
    source = file
    if arrays is None:
        brought = a.examples or b.examples
        source = f"the example of {a.text if a.examples else b.text}" if brought else f"random, seed {seed}"
        arrays = brought or {name: _random(name, wanted, b, partner, seed) for name, wanted in a.inputs.items()}
    back = {own: other for other, own in partner.items()}
    for_a = {
        name: _one(name, wanted, arrays, (name, back.get(name, name)), a, source) for name, wanted in a.inputs.items()
    }
    for_b = {
        name: _one(name, wanted, {**arrays, **for_a}, (partner.get(name, name), name), b, source)
        for name, wanted in b.inputs.items()
    }
    return Given(for_a, for_b, source)


def partners(a: Side, b: Side) -> dict[str, str]:
    """B's inputs -> those of A: of the same name, otherwise in their order.

    Raises:
        RequestError: B takes an input that A has not, or of another size.
    """
    found = {name: name for name in b.inputs if name in a.inputs}
    free_a = [name for name in a.inputs if name not in found.values()]
    free_b = [name for name in b.inputs if name not in found]
    if a.inputs and len(free_b) > len(free_a):
        raise RequestError(
            f"{b.text} takes the input {free_b[len(free_a)]!r}, and {a.text} has none that it could be",
            fix=("Name them the other way round: B takes all that A takes. " if {*a.inputs} < {*b.inputs} else "")
            + f"A takes {_listed(a)}; B takes {_listed(b)}. --role names another graph of a bundle.",
        )
    found |= dict(zip(free_b, free_a))
    for own, other in found.items():
        if not _alike(a.inputs[other].shape, b.inputs[own].shape):
            raise RequestError(
                f"input {other!r} of {a.text} is {_shape(a.inputs[other].shape)}, and {own!r} of {b.text} is "
                f"{_shape(b.inputs[own].shape)}",
                fix="Only models that take the same can be compared; --input-shape NAME=SIZES fixes axes of no fixed "
                "length.",
            )
    return found


def _one(name: str, wanted: Input, arrays: Feeds, calls: tuple[str, ...], side: Side, file: str) -> np.ndarray:
    array = next((arrays[call] for call in calls if call in arrays), None)
    if array is None:
        raise RequestError(
            f"input {name!r} of {side.text} is not in {file}",
            fix=f"{nearest(name, arrays, kind='arrays there')} It takes {_listed(side)}.",
        )
    if not _alike(wanted.shape, array.shape):
        raise RequestError(
            f"{name!r} in {file} is {list(array.shape)}, and {side.text} takes {_shape(wanted.shape)}",
            fix="Give it in that size, or export the model in this one.",
        )
    if array.dtype.kind != wanted.dtype.kind and {array.dtype.kind, wanted.dtype.kind} & {"f"}:
        raise RequestError(
            f"{name!r} in {file} is {array.dtype}, and {side.text} takes {wanted.dtype}", fix="Give it in that type."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise RequestError(
            f"{bad} of {array.size} numbers of {name!r} in {file} are NaN or inf",
            fix="With such inputs all models agree: give finite ones.",
        )
    return np.ascontiguousarray(array.astype(wanted.dtype, copy=False))


def _random(name: str, wanted: Input, b: Side, partner: Mapping[str, str], seed: int) -> np.ndarray:
    """Normal numbers; integers below both sides' tables, and ones where they index none, as in a mask."""
    other = next((b.inputs[own] for own, mine in partner.items() if mine == name), wanted)
    shape = [mine or theirs or 1 for mine, theirs in zip(wanted.shape or (), other.shape or wanted.shape or ())]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if wanted.dtype.kind == "f":
        return rng.standard_normal(shape).astype(wanted.dtype)
    limits = [limit for limit in (wanted.limit, other.limit) if limit]
    if not limits:
        return np.ones(shape, wanted.dtype)
    return rng.integers(0, min(limits), shape).astype(wanted.dtype)


def _alike(a: Shape, b: Shape) -> bool:
    if a is None or b is None:
        return True
    return len(a) == len(b) and all(x == y or None in (x, y) for x, y in zip(a, b))


def _shape(shape: Shape) -> str:
    return "of unknown rank" if shape is None else f"[{', '.join('?' if x is None else str(x) for x in shape)}]"


def _listed(side: Side) -> str:
    return ", ".join(f"{name} {one.dtype} {_shape(one.shape)}" for name, one in side.inputs.items()) or "nothing"
