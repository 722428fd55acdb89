"""Writes docs/parameters.md from the methods' cards and docstrings: `python tools/parameters.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokexport.graph_passes.compressors.base import built_in
from tokexport.graph_passes.method_page import page

PAGE = Path(__file__).parents[1] / "docs/parameters.md"
_HEAD = """# The methods and their parameters

What `tokexport methods NAME` prints, for all: the counts a method takes, what its body costs, its source, and every
parameter with its default, its values and its meaning. `--set KEY=VALUE` sets one. [methods.md](methods.md) has their
accuracy. (`python tools/parameters.py`)
"""


def text() -> str:
    """The page."""
    return "\n".join([_HEAD, *(_method(page(name)) for name in sorted(built_in()))])


def _method(row: dict[str, Any]) -> str:
    rows = [
        f"## {row['name']}\n",
        f"{row['summary'][:1].upper()}{row['summary'][1:]}. Source: {row['source']}"
        f"{', not followed exactly' if row['approximate'] else ''}. Seam: `{row['seam']}`.\n",
        f"- domain: {row['domain']}",
        f"- reads: {', '.join(row['signals']) or 'tokens'}",
        f"- cost: {row['cost']}\n",
    ]
    if row["parameters"]:
        rows += ["| parameter | default | values | meaning |", "|---|---|---|---|"]
        rows += [
            f"| `{one['name']}` | {'' if one['default'] in (None, '') else one['default']} | {one['values']} | "
            f"{one['meaning'].replace('``', '`')} |"
            for one in row["parameters"]
        ]
        rows.append("")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
