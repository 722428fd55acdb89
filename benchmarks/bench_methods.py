"""Every method at real size: docs/methods.md, "At real size".

python benchmarks/bench_methods.py                  # measures what build/real_size does not hold yet, writes the table
python benchmarks/bench_methods.py apet scope       # measures these again
python benchmarks/bench_methods.py --tables         # writes the table from results/ alone

Each is proved on activations of its tower (see real_activations.py), in both precisions, without and with the massive
channels and sinks of trained towers. Its nodes are counted at 128 tokens and at 85 % removed, and its time there is
measured in turns with the tower's. TensorRT-RTX builds it alone, in every form that it has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tables
from real_activations import FOLDER, ROOT, places
from report import save
from tokexport.graph_passes.compressors import methods, names

if TYPE_CHECKING:
    from real_cells import Cell

FORMS = ("portable", "inlined", "plugin")
STEPS = ("nodes", "proof", "time", *FORMS)
PAGE = ROOT / "docs/methods.md"
COUNT, MOST_NODES, MOST_SHARE = 128, 1500, 0.01


def measure(again: list[str], steps: list[str]) -> list[dict[str, Any]]:
    """The results of `steps` for every method, each stored at once; methods in `again` are measured anew."""
    import real_cells

    there = {place.name: place for place in places()}
    every = (real_cells.Cell(method, place) for place in there.values() for method in names())
    cells = [cell for cell in every if cell.first or cell.again]
    (FOLDER / "cells").mkdir(parents=True, exist_ok=True)

    def due(step: str) -> list[Cell]:
        return [cell for cell in cells if step in cell.steps() and not _file(cell, step).is_file()]

    def keep(cell: Cell, step: str, found: dict[str, Any]) -> None:
        print(cell.stem, step, found, flush=True)
        _file(cell, step).write_text(json.dumps(found))

    for cell in cells:
        for step in steps if cell.method in again else ():
            _file(cell, step).unlink(missing_ok=True)
    for step in steps:
        if step == "time":
            for place in there.values():
                for cell, took in real_cells.times([cell for cell in due(step) if cell.place is place]):
                    keep(cell, step, took)
        else:
            for cell in due(step):
                keep(cell, step, cell.measure(step))
    return [_known(cell) for cell in cells]


def _file(cell: Cell, step: str) -> Path:
    return FOLDER / "cells" / f"{cell.stem}.{step}.json"


def _known(cell: Cell) -> dict[str, Any]:
    n, dim = cell.place.looks["plain"]["tokens"].shape[1:]
    row = {"method": cell.method, "params": cell.params, "place": cell.place.name, "tokens": n, "dim": dim}
    found = {step: _file(cell, step) for step in cell.steps()}
    return {**row, **{step: json.loads(file.read_text()) for step, file in found.items() if file.is_file()}}


def at_real_size() -> str:
    """A row for each method at each place, and under it why, where something is over a limit."""
    lines = ["| | tokens | nodes | share of the tower | regret | built by TensorRT-RTX |", "|---|---|---|---|---|---|"]
    reasons = {method.name: method.heavy for method in methods()}
    heavy = []
    for row in tables.results("methods_real_size"):
        lines.append("| " + " | ".join(_row(row)) + " |")
        if over(row) and row["method"] not in heavy:
            heavy.append(row["method"])
    return "\n".join([*lines, "", *(f"- `{method}`: {reasons[method]}." for method in heavy)])


def over(row: dict[str, Any]) -> bool:
    """Whether a method is over the limit of nodes or of time there."""
    return row["nodes"]["nodes_128"] > MOST_NODES or row["time"]["share"] > MOST_SHARE


def _row(row: dict[str, Any]) -> Iterator[str]:
    params = "".join(f" {key}={value}" for key, value in row["params"].items())
    yield f"`{row['method']}`{params}, {row['place']}"
    nodes, share = row["nodes"], row["time"]["share"]
    yield f"{row['tokens']} to {nodes['keep']}"
    count = f"{nodes['nodes_128']:,}" + (f" at {nodes['keep_128']}" if nodes["keep_128"] != COUNT else "")
    yield _bold(count, nodes["nodes_128"] > MOST_NODES)
    yield _bold(f"{share:.2%}", share > MOST_SHARE)
    failed = next((proof["worst"] for proof in row["proof"].values() if not proof["ok"]), "")
    regret = max(proof["regret"] for proof in row["proof"].values())
    yield _bold(failed, True) if failed else f"{regret:.0e}" if regret else "0"
    built = {form: row[form] for form in FORMS if form in row}
    yield ", ".join(_bold(f"not {form}", True) if each["errors"] else form for form, each in built.items())


def _bold(text: str, over: bool) -> str:
    return f"**{text}**" if over else text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("again", nargs="*", help="methods to measure again")
    parser.add_argument("--steps", nargs="*", choices=STEPS, help="these alone, and no table")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.steps:
        measure(options.again, options.steps)
    else:
        if not options.tables:
            save("methods_real_size", measure(options.again, list(STEPS)), "python benchmarks/bench_methods.py")
        PAGE.write_text(tables.fill(PAGE.read_text(), at_real_size))
