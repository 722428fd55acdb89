"""The kernels on this machine's GPU, against the PyTorch code they replace and the least time their formulas need.

    make bench-gpu                # everything, or in three minutes: make bench-gpu QUICK=1

One run times all of these by device events, over more buffers than the last-level cache holds: our kernels, captured in
a CUDA graph like in an engine; the PyTorch operations of the method's released code in eager mode; the same in static
shapes under torch.compile; and the floor, which is the bytes that the formula must move divided by the measured
bandwidth, plus one empty launch. Every row is first compared with its reference. results/gpu_<device>.json is written
after each row, so that an interrupted run keeps its rows.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "plugins"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "gpu"))

from gpu_clock import Call, Clock, EventClock, slug
from gpu_needs import gpu_library, missing
from rich.console import Console
from rich.table import Table
from tokexport.errors import MissingError, TokexportError

GOALS = {"eager": 20.0, "compiled": 5.0, "floor": 4.0, "tower": 0.01}


@dataclass(frozen=True)
class Row:
    """What is measured: a method, [1, N, D] float16 tokens, K kept, and the basis of apet."""

    method: str
    tokens: int
    dim: int
    keep: int
    basis: int = 10

    @property
    def picks(self) -> int:
        """The number of picks of the greedy loop, which the time grows with."""
        return self.basis if self.method == "apet" else self.keep

    def with_half_the_picks(self) -> Row:
        less = self.picks // 2
        return replace(self, basis=less) if self.method == "apet" else replace(self, keep=less)

    def __str__(self) -> str:
        return f"{self.method} {self.tokens} x {self.dim} to {self.keep}"


SHAPES = [(576, 1024, 86), (2304, 1280, 346), (1024, 4096, 154)]
ROWS = [
    *(Row("apet", *shape) for shape in SHAPES),
    *(Row("kcenter_merge", *shape) for shape in SHAPES),
    *(Row(method, tokens, dim, 64) for method in ("divprune", "cdpruner") for tokens, dim, _ in SHAPES),
]
TEXT_LENGTH = 16  # rows of a question


class Bench:
    """One run on one device.

    Args:
        clock: of the device.
        library: the kernels, a `kernel_abi.Library` for it.
        compile_rows: which rows torch.compile is timed on.
        tower: runs the tower, of whose time the share is computed; its weights are larger than any cache.
    """

    def __init__(self, clock: Clock, library: Any, compile_rows: Sequence[Row], tower: Call) -> None:
        from gpu_floor import Floor
        from gpu_rivals import attempt

        self.clock, self.library, self.compile_rows = clock, library, compile_rows
        self.floor = Floor.measure(clock)
        self.tower = attempt(lambda: clock.microseconds([tower] * 2, captured=True))

    def measure(self, row: Row) -> dict[str, Any]:
        """The row, its times in microseconds or why there are none, their ratios, and which goals it meets."""
        import gpu_rivals
        import torch
        from gpu_floor import traffic

        bytes_ = row.tokens * row.dim * 2
        count = math.ceil(2 * self.clock.l2_bytes / bytes_) + 1
        random = torch.Generator(self.clock.device).manual_seed(0)
        sets = [
            torch.randn(1, row.tokens, row.dim, generator=random, device=self.clock.device).half() for _ in range(count)
        ]
        more: dict[str, Any] = {"basis": row.basis} if row.method == "apet" else {}
        if row.method == "cdpruner":
            more["text"] = self._text(row)
        what = (self.clock, row.method, sets, row.keep, more)
        calls = self._calls(row, sets)
        times = {
            "ours": {"us": round(self.clock.microseconds(calls, captured=True), 2)},
            "ours, not captured": {"us": round(self.clock.microseconds(calls, captured=False), 2)},
            "eager": gpu_rivals.eager(*what),
        }
        fewer = row.with_half_the_picks()
        half = self.clock.microseconds(self._calls(fewer, sets), captured=True)
        if row in self.compile_rows:
            times.update(gpu_rivals.compiled(*what))
        if row.method == "divprune":
            times.update(gpu_rivals.peers(self.clock, sets, row.keep))
        times["tower"] = self.tower
        floor = self.floor.microseconds(traffic(row.method, row.tokens, row.dim, row.keep, 2, row.basis), bytes_)
        times["floor"] = {"us": round(floor, 2)} if floor else {"reason": "the bandwidth could not be measured"}
        proof = self._prove(row, sets[0])
        return {
            **asdict(row),
            "dtype": "float16",
            "buffer_sets": count,
            "pick_us": round((times["ours"]["us"] - half) / (row.picks - fewer.picks), 3),
            "proved": proof is None,
            **({"not_proved": proof} if proof else {}),
            "times": times,
            **judge(row, times),
        }

    def _calls(self, row: Row, sets: Sequence[Any]) -> list[Call]:
        signals = [self._text(row)] if row.method == "cdpruner" else []
        params = self._params(row, *signals)
        prepared = [self.library.prepare(row.method, row.keep, params, tokens, *signals) for tokens in sets]
        # The call keeps the outputs alive, because the kernel gets only their addresses.
        return [lambda call=call, outputs=outputs: call(self.clock.stream()) for call, outputs in prepared]

    def _text(self, row: Row) -> Any:
        import torch

        random = torch.Generator(self.clock.device).manual_seed(1)
        return torch.randn(1, TEXT_LENGTH, row.dim, generator=random, device=self.clock.device).half()

    def _params(self, row: Row, *signals: Any) -> Any:
        from kernel_abi import params_of
        from tokexport.graph_passes.compressors import Case, make

        case = Case(row.tokens, row.dim, row.keep, "float16")
        return params_of(make(row.method, self._given(row)), case, *signals)

    def _given(self, row: Row) -> dict[str, Any]:
        return {"apet": {"basis": row.basis}, "cdpruner": {"text_length": TEXT_LENGTH}}.get(row.method, {})

    def _prove(self, row: Row, tokens: Any) -> str | None:
        """None where the kernel agrees with its reference on these tokens, else where it does not."""
        from kernel_checks import agrees

        try:
            agrees(self.library, row.method, self._given(row), row.keep, tokens.cpu())
        except AssertionError as error:
            return str(error)[:500] or "it differs from its reference"
        return None


def judge(row: Row, times: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """``{"ratios": ..., "goals": ...}``; None where a time is missing. Goals are apet's: at its first shape."""
    ours = times["ours"]["us"]
    compiled = [times[name]["us"] for name in ("compiled", "compiled, captured") if "us" in times.get(name, {})]
    floor, eager, tower = (times[name].get("us") for name in ("floor", "eager", "tower"))
    peers = {name: entry["us"] / ours for name, entry in times.items() if name.startswith("torch_") and "us" in entry}
    ratios = {
        "eager": eager / ours if eager else None,
        "compiled": min(compiled) / ours if compiled else None,
        "floor": ours / floor if floor else None,
        "tower": ours / tower if tower else None,
        **peers,
    }
    # Faster than eager and compiled by at least so much; of the floor and the tower at most so much.
    goals = {
        name: None if ratio is None else ratio >= goal if name in ("eager", "compiled") else ratio <= goal
        for name, goal in GOALS.items()
        for ratio in [ratios[name]]
    }
    rounded = {name: ratio if ratio is None else float(f"{ratio:.3g}") for name, ratio in ratios.items()}
    return {"ratios": rounded, "goals": goals if row in ROWS[:1] else {}}


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """What was measured, a line a row: how many times as fast as each rival, and how far above the floor."""
    result = Table(
        "method", "N x D to K", "ours, us", "a pick, us", "eager", "compiled", "floor", "tower", "others", "proved"
    )
    for row in rows:
        ratios = row["ratios"]
        others = [f"{name} {ratio:g}x" for name, ratio in ratios.items() if name.startswith("torch_")]
        result.add_row(
            row["method"],
            f"{row['tokens']} x {row['dim']} to {row['keep']}",
            f"{row['times']['ours']['us']:.1f}",
            f"{row['pick_us']:.2f}",
            *(_times(ratios[name]) for name in ("eager", "compiled", "floor")),
            "-" if ratios["tower"] is None else f"{ratios['tower']:.2%}",
            ", ".join(others) or "-",
            "yes" if row["proved"] else "NO",
        )
    return result


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Notes on the table: goals, what was not timed and why, what was not proved."""
    lines = []
    for row in rows:
        name = str(Row(row["method"], row["tokens"], row["dim"], row["keep"]))
        for goal, met in row["goals"].items():
            sign = ">=" if goal in ("eager", "compiled") else "<="
            verdict = {True: "met", False: "NOT met", None: "not measured"}[met]
            lines.append(f"goal of {name}: {goal} {sign} {GOALS[goal]:g}: {row['ratios'][goal]}, {verdict}")
        lines += [f"{name}: no time of {rival}: {e['reason']}" for rival, e in row["times"].items() if "reason" in e]
        if not row["proved"]:
            lines.append(f"{name}: NOT PROVED: {row['not_proved']}")
    return lines


def run(bench: Bench, rows: Sequence[Row], command: str, console: Console) -> list[dict[str, Any]]:
    """Measure the rows, print as they come, and keep results/gpu_<device>.json up to date."""
    from report import save

    facts = bench.clock.facts()
    measured: list[dict[str, Any]] = []
    for row in rows:
        console.print(f"[dim]{row}[/dim]")
        measured.append(bench.measure(row))
        results = {
            "device": facts,
            "empty_launch_us": bench.floor.empty_us,
            "memory_bytes_per_us": bench.floor.memory,
            "goals": GOALS,
            "rows": measured,
        }
        save(f"gpu_{slug(facts['name'])}", results, command)
    console.print(table(measured))
    for line in summary(measured):
        console.print(line, highlight=False, markup=False)
    console.print(f"written: benchmarks/results/gpu_{slug(facts['name'])}.json; docs/gpus.md says how to send it")
    return measured


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:g}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds; torch.compile on the first row only")
    options = parser.parse_args()
    try:
        lacks = missing()
        if lacks:
            raise MissingError("bench_gpu.py cannot run: this machine lacks " + "; and ".join(lacks))
        library = gpu_library()
    except TokexportError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    from gpu_tower import tower

    clock = EventClock(rounds=5, warm_s=0.05) if options.quick else EventClock(rounds=21)
    bench = Bench(clock, library, ROWS[:1] if options.quick else ROWS, tower(clock.device))
    run(bench, ROWS, "make bench-gpu" + (" QUICK=1" if options.quick else ""), Console(width=120))


if __name__ == "__main__":
    main()
