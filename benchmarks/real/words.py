"""How two transcripts differ, in words."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def differing(ours: list[str], reference: list[str]) -> int:
    """The fewest words inserted, deleted or replaced that make one of the other."""
    row = list(range(len(reference) + 1))
    for i, word in enumerate(ours, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(reference, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1]
