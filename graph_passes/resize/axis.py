"""An axis of a value that runs over the tokens, and how many entries it has before and after compression."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Axis:
    """An axis with ``outer * old * inner`` entries, ``outer * new * inner`` after compression.

    Attributes:
        old: entries of one run over the tokens, prefix and suffix included.
        new: the same after compression.
        prefix: leading entries of a run that are not tokens (CLS, text before an image): they are kept as they are.
        suffix: trailing entries that are not tokens.
        outer: runs that follow each other on this axis, such as when the batch was merged into it.
        inner: entries per token, such as when channels were merged into it.
        uniform: all entries are equal, so it may be combined with any axis of its size.
    """

    old: int
    new: int
    prefix: int = 0
    suffix: int = 0
    outer: int = 1
    inner: int = 1
    uniform: bool = False

    def extended(self, before: int, after: int) -> Axis:
        """The axis with `before` more leading and `after` more trailing entries that are not tokens."""
        more = before + after
        return replace(
            self,
            old=self.old + more,
            new=self.new + more,
            prefix=self.prefix + before,
            suffix=self.suffix + after,
            uniform=False,
        )

    @property
    def size(self) -> int:
        """Entries before compression."""
        return self.outer * self.old * self.inner

    @property
    def kept(self) -> int:
        """Entries after compression."""
        return self.outer * self.new * self.inner

    @property
    def plain(self) -> bool:
        """Whether nothing else was merged into the axis."""
        return self.outer == self.inner == 1

    def move(self, boundary: int) -> int | None:
        """Where a boundary between entries (0..old) lies after compression; None if it falls among the tokens."""
        if boundary <= self.prefix:
            return boundary
        return boundary - self.old + self.new if boundary >= self.old - self.suffix else None

    def part(self, start: int, end: int) -> Axis | None:
        """The axis of entries [start, end), both outside the tokens; None if they hold no tokens."""
        tokens_end = self.old - self.suffix
        if end <= self.prefix or start >= tokens_end:
            return None
        lost = (start, self.old - end)
        return replace(
            self,
            old=self.old - sum(lost),
            new=self.new - sum(lost),
            prefix=self.prefix - lost[0],
            suffix=self.suffix - lost[1],
        )


Axes = dict[int, Axis]
