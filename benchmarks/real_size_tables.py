"""The tables of whole models at real size in docs/benchmarks.md."""

from __future__ import annotations

import json
from typing import Any

from report import RESULTS

# Key of a goal -> its figures in words.
_GOALS = {
    "peak_gb": "peak memory of the whole command, GB",
    "export_of_plain": "export, of `torch.onnx.export`'s own time",
    "prefill_gain": "prefill with 85% removed, times faster",
}
_STEPS = ("encoder", "prefill", "token", "to_1", "to_20", "to_100")


def _rows() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((RESULTS / "real_size_vlm.json").read_text())["results"]
    return found


def whole_models() -> str:
    """What the command costs beside its goals, and what its graphs save."""
    lines = ["| model, fp32 weights | what | goal | measured | |", "|---|---|---|---|---|"]
    for name, row in _rows().items():
        model = f"{name}, {row['weights_gb']:.1f} GB"
        for goal, what in _GOALS.items():
            if told := row["goals"].get(goal):
                sign = "at least" if goal == "prefill_gain" else "at most"
                lines.append(
                    f"| {model} | {what} | {sign} {told['limit']:.2f} | {told['measured']:.2f} | "
                    f"{'met' if told['met'] else '**missed**'} |"
                )
    lines += [
        "",
        "| the whole command | seconds | load before | anonymous memory | mapped files | proof.npz |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in _rows().items():
        whole = row["commands"]["whole"]
        cost = [f"{whole['seconds']:.0f} s", f"{row['load']:.1f}"]
        cost += [f"{whole['anonymous_gb']:.1f} GB", f"{whole['mapped_gb']:.1f} GB", f"{row['proof_npz_mb']:.0f} MB"]
        lines.append("| " + " | ".join([name, *cost]) + " |")
    return "\n".join([*lines, "", *_answers()])


def _answers() -> list[str]:
    """Seconds of answers."""
    heads = ["one thread, seconds", "positions", "encoder", "prefill", "a token", "to the first", "to 20", "to 100"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, row in _rows().items():
        for program, timed in row.get("programs", {}).items():
            seconds = [f"{timed[f'{step}_ms'] / 1e3:.2f}" for step in _STEPS]
            lines.append("| " + " | ".join([f"{name}, {program}", str(timed["positions"]), *seconds]) + " |")
    return lines
