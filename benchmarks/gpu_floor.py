"""The least time a method's formula needs on a device: its bytes over the measured bandwidth, and one empty launch.

A pass reads all tokens once. The first pass reads from memory. Tokens that fit into the last-level cache are read from
there in later passes, so these use the bandwidth measured at the size of the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from gpu_clock import Clock

CALLS = 32  # of one kernel in a row, so that their time is above the resolution of events


@dataclass(frozen=True)
class Traffic:
    """The bytes that a formula moves.

    Attributes:
        once: first reads and writes: tokens in, outputs out.
        again: repeated reads and writes.
    """

    once: int
    again: int


def traffic(method: str, tokens: int, dim: int, keep: int, item: int, basis: int) -> Traffic:
    """Of N tokens of D elements of `item` bytes, K kept, one set.

    apet: M - 1 picks read all tokens (the last one needs no distances), so do the errors and the merge.
    kcenter_merge: K picks (the last one too says who is nearest to it) and the merge.
    divprune: the first pick compares all pairs, which one pass can. From then on a pick either reads all tokens, or the
    cosines were written down as float32 and it reads one row of them: whichever is less.
    cdpruner: the same without the first comparison, and pick i reads the i rows of the factor before it.
    """
    read, written = tokens * dim * item, keep * (dim * item + 12) + tokens * 8
    rows = 4 * tokens * (tokens + keep - 1)
    picks = min(read * (keep - 1), rows)
    again = {
        "apet": read * basis,
        "kcenter_merge": read * keep,
        "divprune": picks,
        "cdpruner": picks + 4 * tokens * keep * (keep - 1) // 2,
    }
    return Traffic(read + written, again[method])


def empty_launch(clock: Clock) -> float:
    """Microseconds of a kernel that does nothing, one after the other like the steps of a method."""
    if clock.device == "cuda":
        return clock.microseconds([lambda: torch.cuda._sleep(0)] * CALLS, captured=True)
    return clock.microseconds([lambda: None] * CALLS, captured=True)


def bandwidth(clock: Clock, size: int) -> float | None:
    """Bytes a microsecond over `size` bytes: the better of a copy and a read, from the growth of time with size.

    None where time does not grow: the size is too small for this clock.
    """
    sizes = [max(size // 8 * 4, 4096) * part for part in (1, 2, 4)]
    copies, reads = [], []
    for bytes_ in sizes:
        source = torch.ones(bytes_ // 4, device=clock.device)
        copy, total = torch.empty_like(source), torch.empty((), device=clock.device)
        copies.append(clock.microseconds([lambda to=copy, x=source: to.copy_(x)] * CALLS, captured=True))
        reads.append(clock.microseconds([lambda to=total, x=source: torch.sum(x, 0, out=to)] * CALLS, captured=True))
    slopes = [float(np.polyfit(sizes, times, 1)[0]) / moved for times, moved in ((copies, 2), (reads, 1))]
    growing = [slope for slope in slopes if slope > 0]
    return 1 / min(growing) if growing else None


@dataclass
class Floor:
    """Floors on one device. Bandwidths are measured when first asked for.

    Attributes:
        empty_us: of an empty launch.
        memory: bytes a microsecond, for data in no cache.
    """

    clock: Clock
    empty_us: float
    memory: float | None

    @classmethod
    def measure(cls, clock: Clock) -> Floor:
        return cls(clock, empty_launch(clock), bandwidth(clock, 4 * clock.l2_bytes))

    def microseconds(self, moved: Traffic, tokens_bytes: int) -> float | None:
        """None where a bandwidth could not be measured."""
        near = bandwidth(self.clock, tokens_bytes)
        if near is None or self.memory is None:
            return None
        return moved.once / self.memory + moved.again / max(near, self.memory) + self.empty_us
