"""What `make bench-gpu` writes, checked before it is taken into results/: every figure with its device and versions.

    python benchmarks/gpu_record.py benchmarks/results/gpu_my_device.json      exit code 1 where something is wrong

Ratios and goals are worked out anew from the times, so that none was changed or is of an older version.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

from bench_gpu import ROWS, Row, judge
from gpu_clock import slug
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

QUICK = "make bench-gpu QUICK=1"


class Strict(BaseModel):
    """Nothing may be missing, and nothing else may be there: a record holds no name of anybody's machine."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Time(Strict):
    """Microseconds, or the reason why there are none."""

    us: PositiveFloat | None = None
    reason: str | None = Field(None, max_length=600)

    @model_validator(mode="after")
    def _one(self) -> Time:
        if (self.us is None) is (self.reason is None):
            raise ValueError("a time is `us`, or the `reason` why it was not measured")
        return self


class Measured(Strict):
    """A row: a method in one shape."""

    method: str
    tokens: PositiveInt
    dim: PositiveInt
    keep: PositiveInt
    basis: PositiveInt
    dtype: str
    buffer_sets: PositiveInt
    pick_us: float
    proved: bool
    not_proved: str | None = None
    times: dict[str, Time]
    ratios: dict[str, float | None]
    goals: dict[str, bool | None]

    @model_validator(mode="after")
    def _worked_out(self) -> Measured:
        row = Row(self.method, self.tokens, self.dim, self.keep, self.basis)
        if row not in ROWS:
            raise ValueError(f"{row} is none of the shapes that bench_gpu.py measures")
        if not self.proved:
            raise ValueError(f"{row} is not proved: {self.not_proved}. A wrong kernel is an issue, not a figure")
        for name in ("ours", "eager", "floor", "tower"):
            if name not in self.times:
                raise ValueError(f"{row} has no time of {name}, nor the reason")
        times = {name: time.model_dump(exclude_none=True) for name, time in self.times.items()}
        if "us" not in times["ours"]:
            raise ValueError(f"{row} has no time of ours")
        if judge(row, times) != {"ratios": self.ratios, "goals": self.goals}:
            raise ValueError(f"the ratios or goals of {row} are not those of its times")
        return self


class Device(Strict):
    """The GPU."""

    name: str = Field(max_length=80)
    compute_capability: str = Field(pattern=r"^\d+\.\d$")
    multiprocessors: PositiveInt
    l2_bytes: PositiveInt
    memory_bytes: PositiveInt
    driver: str | None
    cuda_of_driver: int
    cuda_of_torch: str
    power_mode: str | None = None


class Results(Strict):
    """Of one run."""

    device: Device
    empty_launch_us: PositiveFloat
    memory_bytes_per_us: PositiveFloat | None
    goals: dict[str, float]
    rows: list[Measured]

    @model_validator(mode="after")
    def _whole(self) -> Results:
        there = [(row.method, row.tokens, row.dim, row.keep) for row in self.rows]
        lacking = [row for row in ROWS if (row.method, row.tokens, row.dim, row.keep) not in there]
        if lacking or len(there) != len(ROWS):
            raise ValueError(f"it has {len(there)} of {len(ROWS)} rows: the run was interrupted, run it again")
        return self


class Record(Strict):
    """The file."""

    command: str = Field(pattern=r"^make bench-gpu( QUICK=1)?$")
    date: datetime.date = Field(strict=False)
    machine: dict[str, str | int]
    versions: dict[str, str]
    results: Results

    @property
    def quick(self) -> bool:
        """Whether it was measured in few rounds."""
        return self.command == QUICK


class RecordError(Exception):
    """A file that is no record; its text says why, a line each."""


def read(path: Path) -> Record:
    """The record of a file.

    Raises:
        RecordError: it is none.
    """
    try:
        record = Record.model_validate(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        wrong = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": str(error)}]
        lines = [f"{path.name}: {'.'.join(map(str, one['loc']))} {one['msg']}" for one in wrong[:10]]
        raise RecordError("\n".join(lines)) from None
    expected = f"gpu_{slug(record.results.device.name)}.json"
    if path.name != expected:
        raise RecordError(f"{path.name} is of a {record.results.device.name}: call it {expected}.")
    return record


def records(folder: Path) -> list[Record]:
    """Those of a folder, by the name of their device."""
    return sorted((read(path) for path in folder.glob("gpu_*.json")), key=lambda one: one.results.device.name)


def cells(record: Record) -> list[str]:
    """The first row of a record, as the table of docs/gpus.md shows it."""
    row = record.results.rows[0]
    eager, compiled, floor, tower = (row.ratios[name] for name in ("eager", "compiled", "floor", "tower"))
    return [
        record.results.device.name + (", quick" if record.quick else ""),
        str(record.date),
        f"{row.times['ours'].us:.1f} us",
        *("" if ratio is None else f"{ratio:g}x" for ratio in (eager, compiled, floor)),
        "" if tower is None else f"{tower:.2%}",
        f"{sum(met is True for met in row.goals.values())} of {len(row.goals)}",
    ]


def main() -> None:
    """Check the files that are named."""
    failed = False
    for name in sys.argv[1:]:
        try:
            record = read(Path(name))
        except RecordError as error:
            sys.stderr.write(f"{error}\n")
            failed = True
            continue
        print(f"{name} is right. Its row in docs/gpus.md, which `python benchmarks/tables.py` writes:")
        print("| " + " | ".join(cells(record)) + " |")
    if failed or not sys.argv[1:]:
        sys.exit(1 if failed else __doc__)


if __name__ == "__main__":
    main()
