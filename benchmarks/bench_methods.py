"""Every method at real size: docs/methods.md, "At real size".

python benchmarks/bench_methods.py                  # measures what build/real_size does not hold yet, writes the table
python benchmarks/bench_methods.py apet scope       # measures these again
python benchmarks/bench_methods.py --tables         # writes the table from results/ alone

Each is proved on activations of its tower (see real_activations.py), in both precisions, drawn and with what trained
towers have more; its nodes are counted at 128 tokens and at 85 % removed; its time there is taken in turns with the
tower's; and TensorRT-RTX builds it alone, in every form that it has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tables
from real_activations import FOLDER, ROOT, Place, places
from report import save
from tokexport.graph_passes.compressors import make, names
from tokexport.graph_passes.compressors.base import Learned

if TYPE_CHECKING:
    from real_cells import Cell

FORMS = ("portable", "inlined", "plugin")
STEPS = ("nodes", "proof", "time", *FORMS)
PAGE = ROOT / "docs/methods.md"
MOST_NODES, MOST_SHARE = 1500, 0.01


def measure(again: list[str], steps: list[str]) -> list[dict[str, Any]]:
    """What `steps` find of every method, each kept as soon as it is known; of methods measured `again` anew."""
    import real_cells

    there = {place.name: place for place in places()}
    goes = [real_cells.Cell(method, place) for place in there.values() for method in names() if _goes(method, place)]
    lacking = {cell.stem: cell.lacks() for cell in goes}
    cells = [cell for cell in goes if not lacking[cell.stem]]
    (FOLDER / "cells").mkdir(parents=True, exist_ok=True)

    def file(cell: Cell, step: str) -> Path:
        return FOLDER / "cells" / f"{cell.stem}.{step}.json"

    def due(step: str) -> list[Cell]:
        return [cell for cell in cells if step in cell.steps() and not file(cell, step).is_file()]

    def keep(cell: Cell, step: str, found: dict[str, Any]) -> None:
        print(cell.stem, step, found, flush=True)
        file(cell, step).write_text(json.dumps(found))

    for cell in goes:
        if cell.method in again:
            for step in steps:
                file(cell, step).unlink(missing_ok=True)
    for step in steps:
        if step == "time":
            for place in there.values():
                for cell, took in real_cells.times([cell for cell in due(step) if cell.place is place]):
                    keep(cell, step, took)
        else:
            for cell in due(step):
                keep(cell, step, cell.measure(step))
    rows = []
    for cell in goes:
        n, dim = cell.place.looks["plain"]["tokens"].shape[1:]
        row = {"method": cell.method, "params": cell.params, "place": cell.place.name, "tokens": n, "dim": dim}
        if lacking[cell.stem]:
            rows.append({**row, "lacks": lacking[cell.stem]})
        else:
            rows.append({**row, **{step: json.loads(file(cell, step).read_text()) for step in cell.steps()}})
    return rows


def _goes(method: str, place: Place) -> bool:
    """Whether a method is measured there: at its first kind of input, and on sound too, but for one with weights."""
    compressor = make(method)
    takes = compressor.method.modalities
    first = next(kind for kind in ("image", "video", "audio") if kind in takes)
    return place.modality == first or (
        place.modality in takes and place.modality == "audio" and not isinstance(compressor, Learned)
    )


def at_real_size() -> str:
    """A row for each method at each place; what is over a limit in bold."""
    lines = [
        "| | tokens | nodes at K | share of the tower | proof: largest regret, cosine | TensorRT-RTX |",
        "|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(_row(row)) + " |" for row in tables.results("methods_real_size")]
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> Iterator[str]:
    params = " ".join(f"{key}={value}" for key, value in row["params"].items())
    yield f"`{row['method']}`{' ' + params if params else ''}, {row['place']}"
    yield f"{row['tokens']} to {row['nodes']['keep']}"
    nodes, share = row["nodes"], row["time"]["share"]
    yield _bold(f"{nodes['nodes_128']:,} at {nodes['keep_128']}", nodes["nodes_128"] > MOST_NODES)
    yield _bold(f"{share:.2%}", share > MOST_SHARE)
    proofs = row["proof"].values()
    regret, cosine = max(proof["regret"] for proof in proofs), min(proof["cosine"] for proof in proofs)
    failed = next((proof["worst"] for proof in proofs if not proof["ok"]), "")
    yield _bold(failed, True) if failed else f"{regret:.0e}, {cosine:.6f}"
    built = {form: row[form] for form in FORMS if form in row}
    yield ", ".join(form if not each["errors"] else f"**not {form}**" for form, each in built.items())


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
