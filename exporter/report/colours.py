"""Chooses the colours of slots: neighbours differ, and colour-blind readers can distinguish them.

Sources: Okabe and Ito, "Color Universal Design" (2008), without black; Tol, "Colour Schemes", SRON/EPS/TN/09-002, the
scheme "muted", as far as it differs from the first.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from .picks import Picks

PALETTE = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#cc79a7",
    "#d55e00",
    "#0072b2",
    "#882255",
    "#44aa99",
    "#999933",
    "#aa4499",
    "#cc6677",
    "#ddcc77",
    "#117733",
)
ALONE = "#ffffff"


def slot_colours(picks: Picks, grid: tuple[int, ...]) -> list[str]:
    """A colour for each slot: `ALONE` where nothing was merged into it.

    The largest slots choose first. Each takes the colour that fewest of its neighbours have, and among those the least
    used one. As long as there are not more merging slots than colours, every colour is unique.

    Args:
        picks: of one input.
        grid: (height, width) or (length,) of the tokens.
    """
    near = _neighbours(picks, grid)
    colours = [ALONE] * len(picks.kept)
    used: Counter[str] = Counter()
    for slot in sorted(picks.merging(), key=lambda slot: (-picks.sizes[slot], slot)):
        around = Counter(colours[other] for other in near.get(slot, ()))
        colours[slot] = min(PALETTE, key=lambda colour: (around[colour], used[colour]))
        used[colours[slot]] += 1
    return colours


def _neighbours(picks: Picks, grid: tuple[int, ...]) -> dict[int, set[int]]:
    """Slot -> the slots with a token beside, above or below one of its own."""
    owner = picks.assignment.reshape(grid)
    near: dict[int, set[int]] = {}
    for axis in range(owner.ndim):
        here = np.moveaxis(owner, axis, 0)
        for one, other in zip(here[:-1].ravel().tolist(), here[1:].ravel().tolist()):
            if one != other and one >= 0 and other >= 0:
                near.setdefault(one, set()).add(other)
                near.setdefault(other, set()).add(one)
    return near
