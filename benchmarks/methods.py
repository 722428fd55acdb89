"""The methods side by side on the built-in models, at few questions: docs/methods.md.

python benchmarks/methods.py              # measures what build/methods does not hold yet, then writes the tables
python benchmarks/methods.py --tables     # writes the tables from results/ alone
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import tables
from tokexport.exporter.sweep import sweep

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/methods.md"
RATIOS = ("0.5", "0.85", "0.95")
QUESTIONS = 512
MERGING = ("kcenter_merge", "two_scale", "apet", "tome:metric=tokens", "folder", "dpc_knn")
METHODS = {
    "tiny-vlm": (
        *MERGING,
        "tome",
        *("visionzip", "visionzip:attention=received"),
        *("prumerge", "prumerge:rest=mean", "prumerge:plus=true", "evit", "evit:rest=mean"),
        *("divprune", "scope", "dart", "cls_topk", "cls_topk:attention=received", "vispruner", "holov"),
        *("cdpruner", "cdpruner:inverted=false", "trim", "trim:inverted=false", "sparsevlm", "adafv", "lftr_text"),
    ),
    "tiny-asr": (*MERGING, "a_tome:metric=tokens", "divprune", "dart:norm_of=tokens", "audio_topk", "pool1d"),
    "tiny-video": (
        *MERGING,
        *("temporal_pool", "pool3d", "st_mean", "slowfast", "lftr", "evs", "prunevid", "holitom", "framefusion"),
        *("longvu", "codec_topk", "divprune", "dart:norm_of=tokens"),
    ),
}


def result(source: str) -> Path:
    """Where the figures of a model are kept."""
    return tables.RESULTS / f"methods_{source.replace('-', '_')}.json"


def measure() -> None:
    """One set of questions each."""
    for source, methods in METHODS.items():
        out = ROOT / "build/methods" / source
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(source, out, methods=methods, ratios=RATIOS, questions=QUESTIONS, seeds=1)
        shutil.copyfile(out / "sweep.json", result(source))


def table(source: str) -> str:
    """A row for each method, best at 85 % removed first; a merging one as without / with log(size)."""
    data = json.loads(result(source).read_text())
    kept = {row["ratio"]: row["keep"] for row in data["rows"] if row["method"] == "uniform"}
    methods: dict[str, dict[str, Any]] = {}
    for row in data["rows"]:
        if "accuracy" in row:
            methods.setdefault(row["method"], {})[row["ratio"]] = row
    head = f"| kept of {data['tokens']} | " + " | ".join(map(str, kept.values())) + " |"
    lines = [head, "|---" * (len(kept) + 1) + "|"]
    for name, cells in sorted(methods.items(), key=lambda item: -item[1].get("0.85", {}).get("accuracy", 0)):
        shown = [_cell(cells[ratio], kept[ratio]) if ratio in cells else "" for ratio in kept]
        lines.append(f"| `{name}` | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def page() -> str:
    """docs/methods.md with its tables filled in."""
    text = PAGE.read_text()
    for source in METHODS:
        begin, end = f"<!-- {source} -->\n", "\n<!-- end -->"
        before, _, rest = text.partition(begin)
        text = before + begin + table(source) + end + rest.partition(end)[2]
    return text


def _cell(row: dict[str, Any], kept: int) -> str:
    text = _share(row["accuracy"])
    if "accuracy_without_bias" in row:
        text = f"{_share(row['accuracy_without_bias'])} / {text}"
    return text if row["keep"] == kept else f"{row['keep']} tokens: {text}"


def _share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    if "--tables" not in sys.argv[1:]:
        measure()
    PAGE.write_text(page())
