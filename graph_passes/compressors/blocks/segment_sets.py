"""The sets of tokens that methods working in segments reduce one by one, and how their slots become one result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base import Case, Compressed
from . import select
from .shares import positions_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Layout:
    """The fixed counts of a case.

    Attributes:
        places: P, positions per frame.
        lengths: frames of each segment.
        static: S, static positions of each segment.
        static_counts: slots of the static set of each segment; empty if S is 0.
        dynamic_counts: slots of the dynamic set of each frame; empty if S is P.
    """

    places: int
    lengths: list[int]
    static: int
    static_counts: list[int]
    dynamic_counts: list[int]

    @property
    def starts(self) -> list[int]:
        """The first frame of each segment."""
        return [sum(self.lengths[:i]) for i in range(len(self.lengths))]

    @property
    def segment_of(self) -> list[int]:
        """The segment of each frame."""
        return [i for i, length in enumerate(self.lengths) for _ in range(length)]


@dataclass(frozen=True)
class Group:
    """A set of tokens that is reduced on its own.

    Attributes:
        static: whether it is the static set of a segment.
        tokens: [B, n, D] float32.
        positions: [B, n] int64, of a static set those in the first frame of the segment.
        members: [B, f, n] int64, the positions of all tokens merged into each.
        count: slots.
    """

    static: bool
    tokens: torch.Tensor
    positions: torch.Tensor
    members: torch.Tensor
    count: int

    @property
    def case(self) -> Case:
        """Of reducing it."""
        return Case(self.tokens.shape[1], self.tokens.shape[2], self.count)


def groups_of(layout: Layout, tokens: torch.Tensor, mask: torch.Tensor) -> list[Group]:
    """The sets in the order of their counts, for static positions by mask [B, segments, P]."""
    import torch

    x, groups = tokens.float(), []
    for i, (start, length) in enumerate(zip(layout.starts, layout.lengths)):
        frames = torch.arange(start, start + length, device=x.device)[:, None] * layout.places
        if layout.static:
            members = frames + positions_of(mask[:, i])[:, None]
            content = select.gather(x, members.flatten(1)).unflatten(1, members.shape[1:]).mean(1)
            groups.append(Group(True, content, members[:, 0], members, layout.static_counts[i]))
    for frame, i in enumerate(layout.segment_of):
        if layout.static < layout.places:
            positions = frame * layout.places + positions_of(~mask[:, i])
            count = layout.dynamic_counts[frame]
            groups.append(Group(False, select.gather(x, positions), positions, positions[:, None], count))
    return groups


def assemble(
    tokens: torch.Tensor, groups: list[Group], reduced: list[Compressed[torch.Tensor]]
) -> Compressed[torch.Tensor]:
    """The slots of all sets in spatial order; a size is the number of tokens in the slot, at least 1."""
    import torch

    positions = [group.positions.gather(1, one.kept_indices) for group, one in zip(groups, reduced)]
    kept, order = torch.cat(positions, 1).sort(dim=1)
    rank, first = order.argsort(dim=1), 0
    assignment = torch.full(tokens.shape[:2], -1, device=tokens.device)
    for group, one in zip(groups, reduced):
        slot = rank.gather(1, first + one.assignment.clamp(min=0)).where(one.assignment >= 0, -1)
        assignment = assignment.scatter(1, group.members.flatten(1), slot.repeat(1, group.members.shape[1]))
        first += group.count
    went = (assignment >= 0).float()
    sizes = torch.zeros(kept.shape, device=tokens.device).scatter_add(1, assignment.clamp(min=0), went)
    content = select.gather(torch.cat([one.tokens for one in reduced], 1), order)
    return Compressed(content.to(tokens.dtype), kept, sizes.clamp(min=1), assignment)


def local(group: Group, got: Compressed[torch.Tensor]) -> Compressed[torch.Tensor] | None:
    """The decisions of a result of one batch element for a set, or None if its number of slots differs."""
    import torch

    own = select.slots_of(got.kept_indices, got.assignment.shape[1]).gather(1, group.positions)
    if int((own >= 0).sum()) != group.count:
        return None
    kept = positions_of(own >= 0)
    same = (got.assignment.gather(1, group.positions)[:, :, None] == own.gather(1, kept)[:, None]).int()
    slot = torch.where(same.any(2), same.argmax(2), -1)
    return Compressed(select.gather(group.tokens, kept), kept, torch.ones_like(kept).float(), slot)
