"""The table of loss against time in docs/benchmarks.md, from results/pareto.json; see pareto.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from report import RESULTS

NAME = "pareto"
BASELINES = ("uniform", "random", "pool")
TOKENS = (1, 20, 100)
# The share removed at which the table has the baselines.
BESIDE = 0.75


def front(rows: Iterable[dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
    """Those that nothing is both faster than, to this token, and at least as good; the fastest first."""
    found: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row[f"to_{tokens}_ms"], row["loss"])):
        if not found or row["loss"] < found[-1]["loss"]:
            found.append(row)
    return found


def pareto() -> str:
    """What is on a front of a model, and the baselines at one ratio."""
    heads = ["one thread, its own time", "where", "tokens", "loss", *(f"to token {n}" for n in TOKENS)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for model, rows in json.loads((RESULTS / f"{NAME}.json").read_text())["results"].items():
        whole = max(row["keep"] for row in rows.values())
        fronts = {n: [id(row) for row in front(rows.values(), n)] for n in TOKENS}
        for row in sorted(rows.values(), key=lambda row: (row["place"], -row["keep"], row["loss"])):
            best = [n for n in TOKENS if id(row) in fronts[n]]
            beside = is_baseline(row) and round(1 - row["keep"] / whole, 2) == BESIDE
            if not (best or row["method"] == "uncompressed" or beside):
                continue
            method, _, params = row["method"].partition(":")
            times = [f"{row[f'to_{n}_times_faster']:.2f}x" for n in TOKENS]
            cells = [f"**{text}**" if n in best else text for n, text in zip(TOKENS, times)]
            name = f"{model}, `{method}` {params}".rstrip() if method != "uncompressed" else f"{model}, all tokens"
            place = row["place"] if method != "uncompressed" else ""
            lines.append(f"| {name} | {place} | {row['keep']} | {row['loss']:.1%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def is_baseline(row: dict[str, Any]) -> bool:
    return row["method"].partition(":")[0] in BASELINES
