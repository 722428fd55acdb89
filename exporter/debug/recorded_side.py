"""Values that were recorded elsewhere, with the inputs that they were computed from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .inputs import from_file
from .sides import Arrays, Feeds, Input, Side, Value

# Before the names of inputs and outputs in the file; what has neither is an inner value.
INPUT, OUTPUT = "input:", "output:"


@dataclass
class RecordedSide(Side):
    """An .npz that `record` wrote; it computes nothing.

    Attributes:
        recorded: by name.
    """

    recorded: Arrays = field(default_factory=dict)

    def read(self, feeds: Feeds, names: Collection[str]) -> Arrays:
        """See `Side`."""
        return {name: self.recorded[name] for name in names}


def open_recorded(path: Path) -> RecordedSide:
    """Read an .npz of values; where it marks none as outputs, all are.

    Raises:
        RequestError: no such file, or it is damaged.
    """
    arrays = from_file(path)
    inputs = {name.removeprefix(INPUT): array for name, array in arrays.items() if name.startswith(INPUT)}
    outputs = [name.removeprefix(OUTPUT) for name in arrays if name.startswith(OUTPUT)]
    values = {name.removeprefix(OUTPUT): array for name, array in arrays.items() if not name.startswith(INPUT)}
    return RecordedSide(
        text=str(path),
        runs="recorded",
        inputs={name: Input(array.dtype, array.shape) for name, array in inputs.items()},
        outputs=tuple(outputs or values),
        values=tuple(Value(name, shape=array.shape) for name, array in values.items()),
        examples=inputs or None,
        recorded=values,
    )


def record(path: Path, inputs: Feeds, outputs: Feeds, values: Mapping[str, np.ndarray]) -> None:
    """Write what `open_recorded` reads: in the order of computation, so outputs are last."""
    named = {f"{INPUT}{name}": array for name, array in inputs.items()}
    last = {f"{OUTPUT}{name}": array for name, array in outputs.items()}
    np.savez(path, **named, **values, **last)  # type: ignore[arg-type]
