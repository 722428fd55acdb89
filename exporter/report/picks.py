"""Which tokens a compressor kept of one input, and where the others went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Picks:
    """A compressor's choice for one input, B = 1.

    Attributes:
        kept: [K] int64, the position each slot inherits.
        sizes: [K] float32, tokens each slot stands for.
        assignment: [N] int64, the slot each token went into, -1 where it was dropped.
    """

    kept: np.ndarray
    sizes: np.ndarray
    assignment: np.ndarray

    @classmethod
    def of(cls, outputs: Mapping[str, np.ndarray]) -> Picks:
        """From an encoder's outputs by role, the first of a batch."""
        return cls(*(np.asarray(outputs[name])[0] for name in ("kept_indices", "sizes", "assignment")))

    @property
    def tokens(self) -> int:
        """N."""
        return len(self.assignment)

    def then(self, further: Picks) -> Picks:
        """This choice, and behind it one among its K slots."""
        held = further.assignment >= 0
        sizes = np.bincount(further.assignment[held], self.sizes[held], len(further.kept)).astype(np.float32)
        # A slot that nothing went into stays what it was.
        sizes = np.where(sizes > 0, sizes, self.sizes[further.kept])
        into = np.where(self.assignment >= 0, further.assignment[self.assignment], -1)
        return Picks(self.kept[further.kept], sizes, into)

    @classmethod
    def none(cls, tokens: int) -> Picks:
        """All of N tokens are dropped."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float32), np.full(tokens, -1, np.int64))

    def moved(self, to: np.ndarray) -> Picks:
        """The same choice with token i drawn at to[i]; `to` [N] is a permutation."""
        assignment = np.empty_like(self.assignment)
        assignment[to] = self.assignment
        return Picks(to[self.kept], self.sizes, assignment)

    @cached_property
    def slot_at(self) -> dict[int, int]:
        """Position -> the slot that inherits it; the first if several do."""
        found: dict[int, int] = {}
        for slot, position in enumerate(self.kept.tolist()):
            found.setdefault(position, slot)
        return found

    @cached_property
    def lit(self) -> np.ndarray:
        """Bool [N]: kept in the slot at its own position."""
        lit = np.zeros(self.tokens, bool)
        for position, slot in self.slot_at.items():
            lit[position] = self.assignment[position] == slot
        return lit

    @property
    def merged(self) -> np.ndarray:
        """Bool [N]: went into a slot at another position."""
        return (self.assignment >= 0) & ~self.lit

    @property
    def lost(self) -> np.ndarray:
        """Bool [N]: dropped."""
        return self.assignment < 0

    def merging(self) -> list[int]:
        """The slots that hold tokens of other positions."""
        return sorted(set(self.assignment[self.merged].tolist()))
