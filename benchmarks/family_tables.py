"""The table of docs/families.md."""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import Any

from report import RESULTS

COLUMNS = ("encoder", "whole", "answers agree", "inside the encoder", "TensorRT-RTX builds")
# Seam -> where the compressor is put by itself, in words.
_PLACES = {"projector_output": "behind the projector", "encoder_output": "behind the encoder"}
# The clause of a refusal that says what stands in the way.
_REASON = re.compile(r" is not valid: (.+?), by their places")


def cells(row: dict[str, Any]) -> dict[str, str]:
    """Column of `COLUMNS` -> what a row of results/families.json says there."""
    here = row["here"]
    if here["status"] != "ok":
        return dict.fromkeys(COLUMNS, f"{here['status']}: {here['reason']}")
    unbuilt = [f"{graph}: {one['why']}" for graph, one in row["rtx"].items() if not one["ok"]]
    return {
        "encoder": _proved(here, "head", "compressor", "tail"),
        "whole": _proved(here, "embed", "prefill", "decode"),
        "answers agree": _proved(here, "generation"),
        "inside the encoder": _inside(row["inside"]),
        "TensorRT-RTX builds": "; ".join(unbuilt) or f"all {len(row['rtx'])}",
    }


def _inside(done: dict[str, Any]) -> str:
    """Whether tokens can be compressed there, and whether all of them leave the layers."""
    if done["status"] != "ok":
        return f"{done['status']}: {_reason(done['reason'])}"
    return "ok, rebuilt" if "rebuild" in done["checks"] else "ok"


def _proved(done: dict[str, Any], *parts: str) -> str:
    """Of the checks that there are; a dash where there are none."""
    found = [done["checks"][part] for part in parts if part in done["checks"]]
    return "" if not found else "ok" if all(found) else "failed"


def _reason(text: str) -> str:
    found = _REASON.search(text)
    return found[1] if found else text


def families() -> str:
    """A row for each family, whose architectures share it where their cells are the same."""
    rows = json.loads((RESULTS / "families.json").read_text())["results"].values()
    lines = [f"| family | architecture | compressed | {' | '.join(COLUMNS)} |", "|---" * (3 + len(COLUMNS)) + "|"]
    told = [(row["family"], _place(row), tuple(cells(row).values()), row["architecture"]) for row in rows]
    for (name, place, found), alike in groupby(sorted(told, key=_order(told)), key=lambda one: one[:3]):
        architectures = ", ".join(f"`{one[3]}`" for one in alike)
        lines.append(f"| {name} | {architectures} | {place} | {' | '.join(found)} |")
    return "\n".join(lines)


def _order(told: list[tuple[Any, ...]]) -> Any:
    """Rows of one family follow each other, in the order of the list."""
    names = [one[0] for one in told]
    kinds = [one[:3] for one in told]
    return lambda one: (names.index(one[0]), kinds.index(one[:3]))


def _place(row: dict[str, Any]) -> str:
    """Where the compressor was put by itself."""
    seam = row["here"].get("seam", "")
    return _PLACES.get(seam, "behind a layer" if seam.startswith("encoder_layer") else seam)
