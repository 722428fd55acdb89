"""Videos in segments: static positions of a segment become one frame, moving ones are kept; both are reduced.

For T frames of P positions: segments of at most `segment` frames, as equal as possible. In each the S positions most
similar over its frames are static, and the tokens of a static position become their mean. That leaves a static set of S
tokens per segment, and a dynamic set of P - S tokens per frame. K is divided among all sets in proportion to their
size, at least one slot each, and a method defines how a set is reduced to its share.

A slot of a static set inherits its position in the first frame of the segment. Slots are in spatial order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....errors import RequestError
from ..base import Case, Compressed
from . import select
from .grids import video_grid_of
from .replay import Replay, top_k_regret
from .segment_sets import Group, Layout, assemble, groups_of, local
from .segments_body import emit_segments
from .shares import highest_of_each, share, share_one_each

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


@dataclass(frozen=True)
class Segmented(ABC):
    """The base of methods that work in segments.

    Attributes:
        segment: frames of a segment, at most.
        static: share of the positions that are static; by default half, or fewer if K requires it.
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    segment: int = 4
    static: float | None = None
    grid: str | None = None

    def __post_init__(self) -> None:
        if self.segment < 1:
            raise RequestError(f"segment {self.segment} is below 1", fix="Use --set segment=4.")
        if self.static is not None and not 0 <= self.static <= 1:
            raise RequestError(f"static {self.static} is outside 0..1", fix="Use for example --set static=0.5.")

    @abstractmethod
    def likeness(self, unit: torch.Tensor) -> torch.Tensor:
        """Similarity of each position [B, P] over a segment of 2 or more frames; tokens [B, f, P, D] of length 1."""

    @abstractmethod
    def reduced(
        self, group: Group, signals: Mapping[str, torch.Tensor], got: Compressed[torch.Tensor] | None
    ) -> Replay:
        """A set reduced to its count; with `got`, by its decisions, and with their regret."""

    @abstractmethod
    def emit_likeness(self, b: Builder, unit: ir.Value, length: int) -> ir.Value:
        """As `likeness`, for a segment of `length` frames."""

    @abstractmethod
    def emit_reduced(
        self, b: Builder, case: Case, static: bool, tokens: ir.Value, scores: ir.Value | None
    ) -> Compressed[ir.Value]:
        """As `reduced`, for tokens [B, N, D] float32 of sets of one kind, and their scores [B, N] if there are any."""

    def emit_scores(self, b: Builder, signals: Mapping[str, ir.Value]) -> ir.Value | None:
        """[B, N] float32, the scores that `emit_reduced` reads for dynamic sets besides the tokens."""
        return None

    def layout(self, case: Case) -> Layout:
        """The fixed counts.

        Raises:
            RequestError: not a video, or a K that cannot be reached.
        """
        frames, height, width = video_grid_of(case, self.grid)
        select.check_keep(case)
        places, segments = height * width, -(-frames // self.segment)
        gone = frames - segments
        if self.static and not gone:
            raise RequestError(
                f"static={self.static}, but every segment has a single frame, so no position can be static",
                where=f"a video of {frames}x{height}x{width} in segments of {self.segment}",
                fix="Use --set segment=2 or more, or leave static unset.",
            )
        if self.static is not None:
            static = round(self.static * places)
        else:
            static = min(places // 2, (case.tokens - case.keep) // gone) if gone else 0
        sets = [static] * segments if static else []
        sets += [places - static] * frames if static < places else []
        if not len(sets) <= case.keep <= sum(sets):
            raise RequestError(
                f"keep {case.keep} is outside {len(sets)}..{sum(sets)}: {static} of {places} positions are static in "
                f"{segments} segments of {frames} frames, and each of {len(sets)} sets needs a slot",
                where=f"{case.tokens} tokens of {case.dim} channels",
                fix=f"Use --keep {len(sets)} to {sum(sets)}, or another --set static or --set segment.",
            )
        counts = share_one_each(case.keep, sets)
        split = segments if static else 0
        return Layout(places, share(frames, [1] * segments), static, counts[:split], counts[split:])

    def check(self, case: Case) -> None:
        """A video, and at least one slot per set."""
        self.layout(case)

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """Split, reduce each set, sort the slots."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        layout = self.layout(case)
        mask = highest_of_each(self._likeness(layout, tokens), [layout.static] * len(layout.lengths))
        groups = groups_of(layout, tokens, mask)
        return assemble(tokens, groups, [self.reduced(group, signals, None).expected for group in groups])

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """A position whose tokens of two frames share a slot is static; the sets are checked one by one."""
        import torch

        ones = []
        for i in range(len(tokens)):
            at = slice(i, i + 1)
            fields = (field[at] for field in (got.tokens, got.kept_indices, got.sizes, got.assignment))
            ones.append(self._replay(case, tokens[at], Compressed(*fields), {s: x[at] for s, x in signals.items()}))
        expected = Compressed(*(torch.cat([getattr(one.expected, name) for one in ones]) for name in vars(got)))
        return Replay(expected, torch.cat([one.regret for one in ones]))

    def _replay(
        self, case: Case, token: torch.Tensor, got: Compressed[torch.Tensor], signals: dict[str, torch.Tensor]
    ) -> Replay:
        """Of one batch element."""
        import torch

        never = Replay(self.reference(case, token, **signals), torch.full((1,), torch.inf, dtype=torch.float64))
        if case.keep == case.tokens:
            return Replay(never.expected, torch.zeros_like(never.regret))
        layout = self.layout(case)
        slots, masks = got.assignment.view(1, -1, layout.places), []
        for start, length in zip(layout.starts, layout.lengths):
            if length == 1:
                masks.append(torch.arange(layout.places)[None] < layout.static)
            else:
                masks.append((slots[:, start] == slots[:, start + 1]) & (slots[:, start] >= 0))
        mask = torch.stack(masks, 1)
        if not (mask.sum(2) == layout.static).all():
            return never
        likeness = self._likeness(layout, token)[0]
        regret = top_k_regret(likeness, mask[0], torch.ones_like(likeness)).amax(0, keepdim=True)
        groups, reduced = groups_of(layout, token, mask), []
        for group in groups:
            one_got = local(group, got)
            if one_got is None:
                return never
            one = self.reduced(group, signals, one_got)
            regret = torch.maximum(regret, one.regret)
            reduced.append(one.expected)
        return Replay(assemble(token, groups, reduced), regret)

    def _likeness(self, layout: Layout, tokens: torch.Tensor) -> torch.Tensor:
        """[B, segments, P]; 0 in a segment of one frame."""
        import torch
        from torch.nn.functional import normalize

        unit = normalize(tokens.float(), dim=2).unflatten(1, (-1, layout.places))
        alike = [self.likeness(x) if x.shape[1] > 1 else x[:, 0, :, 0] * 0 for x in unit.split(layout.lengths, 1)]
        return torch.stack(alike, 1)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """Sets of one kind and one count are reduced together."""
        if case.keep == case.tokens:
            return select.emit_every_token(b, case, tokens)
        return emit_segments(b, case, self.layout(case), self, tokens, self.emit_scores(b, signals))
