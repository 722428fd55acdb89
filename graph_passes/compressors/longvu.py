"""LongVU: keep the frames least similar to their window, and of these the tokens that changed since their chunk began.

Source: LongVU (arXiv 2410.17434, ICML 2025) and its code, the part that does not read the text. For tokens X [T, P, D]
of T frames of P positions:

    windows  of 16 frames. s_t = mean cosine of frame t, all its tokens as one vector, and the frames of its window
    frames   of each window its middle one, and those of the smallest s; F in all, divided by window length
    chunks   of 8 of the F frames that are kept. The first frame of a chunk is kept whole
    tokens   of its other frames, those of the smallest cosine with the first frame's token at their position

unchanged, in order; all others are lost. The lowest index wins among equals. K minus the whole frames is divided among
the chunks by their length. F is a share of T; by default half, or as near to it as K allows: from K / P frames to 8 for
each frame that fits into K.

Fixed-count form: the released code keeps all frames with s < .83, by features of DINOv2 (here the
tokens), and in chunks all tokens whose cosine is below .7 or .8, and truncates the result. It also keeps the frames
most similar to the question in full and pools the others. That part reads the text and is left out.

Domain: at least P slots, or more for more than 8 windows, to F P, which is N unless `frames` is set.
K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.cosine import emit_unit
from .blocks.grids import video_grid_of
from .blocks.replay import Replay, top_k_regret
from .blocks.shares import emit_highest_of_each, emit_positions, highest_of_each, positions_of, share, share_one_each

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@dataclass(frozen=True)
class _Plan:
    """The fixed counts of a case.

    Attributes:
        places: P.
        windows: frames of each window.
        frames: how many frames are kept.
        chunks: kept frames of each chunk.
        tokens: tokens kept of each chunk after its first frame.
    """

    places: int
    windows: list[int]
    frames: list[int]
    chunks: list[int]
    tokens: list[int]


@compressor(
    "longvu",
    family="similarity",
    modalities=("video",),
    merges=False,
    source="LongVU, arXiv 2410.17434",
    seam="projector_output",
    summary="keeps dissimilar frames, and of these tokens that changed in eight; fixed-count form, without the text",
    approximate=True,
)
@dataclass(frozen=True)
class Longvu:
    """Parameters of LongVU.

    Attributes:
        window: frames that a frame is compared with.
        chunk: kept frames per chunk, whose first is kept whole.
        frames: F / T, share of the frames that are kept; by default half, or what K requires.
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    window: int = 16
    chunk: int = 8
    frames: float | None = None
    grid: str | None = None

    examples = (
        Example(
            Case(60, 5, 19, grid=(5, 3, 4)),
            Case(60, 5, 31, grid=(5, 3, 4)),
            Case(60, 5, 41, grid=(5, 3, 4)),
            Case(36, 3, 22, grid=(9, 2, 2)),
        ),
        Example(Case(60, 5, 41, grid=(5, 3, 4)), Case(36, 3, 22, grid=(9, 2, 2)), window=3, chunk=2),
        Example(Case(60, 5, 19, grid=(5, 3, 4)), window=3, chunk=2, frames=0.4),
    )

    def __post_init__(self) -> None:
        if self.window < 1 or self.chunk < 2:
            raise RequestError(
                f"window {self.window} is below 1, or chunk {self.chunk} below 2",
                where="method 'longvu'",
                fix="Use --set window=16 and --set chunk=8, as the released code.",
            )
        if self.frames is not None and not 0 < self.frames <= 1:
            raise RequestError(
                f"frames {self.frames} is not a share of the frames",
                where="method 'longvu'",
                fix="Use --set frames=0.5.",
            )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """A video, one frame per window, and K from the whole frames to all kept frames."""
        self.plan(case)

    def plan(self, case: Case) -> _Plan:
        """The fixed counts.

        Raises:
            RequestError: not a video, or a K that cannot be reached.
        """
        total, height, width = video_grid_of(case, self.grid)
        select.check_keep(case)
        places = height * width
        windows = [min(self.window, total - start) for start in range(0, total, self.window)]
        if self.frames is not None:
            kept = max(1, round(self.frames * total))
        else:
            kept = max(-(-total // 2), -(-case.keep // places), len(windows))
            kept = min(kept, self.chunk * max(1, case.keep // places))
        if kept < len(windows):
            raise RequestError(
                f"each of {len(windows)} windows keeps a frame, and {kept} frames are kept",
                where=f"{case.tokens} tokens of {case.dim} channels",
                fix=f"Use --keep {-(-len(windows) // self.chunk) * places} or more, or a larger --set window.",
            )
        chunks = [min(self.chunk, kept - start) for start in range(0, kept, self.chunk)]
        if not len(chunks) * places <= case.keep <= kept * places:
            raise RequestError(
                f"keep {case.keep} is outside {len(chunks) * places}..{kept * places}: {len(chunks)} of {kept} frames "
                f"are kept whole, and each has {places} tokens",
                where=f"{case.tokens} tokens of {case.dim} channels",
                fix=f"Use --keep {len(chunks) * places} to {kept * places}, or leave frames unset.",
            )
        room = [(length - 1) * places for length in chunks]
        rest = case.keep - len(chunks) * places
        counts = share(rest, room) if rest else [0] * len(room)
        return _Plan(places, windows, share_one_each(kept, windows), chunks, counts)

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        import torch

        plan = self.plan(case)
        scores = _novelty(plan, tokens).split(plan.windows, 1)
        mask = [highest_of_each(s[:, None], [count])[:, 0] for s, count in zip(scores, plan.frames)]
        frames = positions_of(torch.cat(mask, 1))
        chosen = []
        for changed, count in zip(_changes(plan, tokens, frames), plan.tokens):
            chosen += [torch.ones(len(tokens), plan.places, dtype=torch.bool, device=tokens.device)]
            chosen += [highest_of_each(changed[:, None], [count])[:, 0]]
        positions = _positions(plan, frames)
        return select.selection(tokens, positions[torch.cat(chosen, 1)].view(len(tokens), -1))

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """Frames with kept tokens were kept; the remaining kept frames are taken to be the best others."""
        import torch

        plan = self.plan(case)
        kept = select.slots_of(got.kept_indices, case.tokens) >= 0
        seen = kept.unflatten(1, (-1, plan.places)).any(2)
        novelty, mask = _novelty(plan, tokens), []
        for s, must, count in zip(novelty.split(plan.windows, 1), seen.split(plan.windows, 1), plan.frames):
            mask.append(highest_of_each(s.masked_fill(must, torch.inf)[:, None], [count])[:, 0])
        fits = (seen & ~torch.cat(mask, 1)).sum(1) == 0
        ones = torch.ones_like(novelty)
        parts = (x.split(plan.windows, 1) for x in (novelty, torch.cat(mask, 1), ones))
        regret = torch.stack([top_k_regret(*part) for part in zip(*parts)]).amax(0)

        frames = positions_of(torch.cat(mask, 1))
        in_chunks = kept.gather(1, _positions(plan, frames)).split([length * plan.places for length in plan.chunks], 1)
        for changed, chosen, count in zip(_changes(plan, tokens, frames), in_chunks, plan.tokens):
            whole, rest = chosen[:, : plan.places], chosen[:, plan.places :]
            fits &= whole.all(1) & (rest.sum(1) == count)
            regret = torch.maximum(regret, top_k_regret(changed, rest, torch.ones_like(changed)))
        regret = torch.where(fits.cpu(), regret, torch.inf)
        return Replay(select.selection(tokens, got.kept_indices), regret)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """Product of a frame with the mean of its window; then products with the first frame of each chunk."""
        plan = self.plan(case)
        places, total, kept = plan.places, sum(plan.windows), sum(plan.chunks)
        if case.keep == case.tokens:
            return select.emit_every_token(b, case, tokens)
        video = b.op("Reshape", select.emit_float(b, tokens, case), [-1, total, places * case.dim])
        frames = emit_positions(b, self._emit_frames(b, plan, emit_unit(b, video)), kept, total)
        picked = select.emit_gather(b, video, b.cast(frames, "int64"))
        unit = emit_unit(b, b.op("Reshape", picked, [-1, kept * places, case.dim]))
        chosen, start = [], 0
        whole = select.emit_rows(b, tokens, np.ones(places, bool))
        for length, count in zip(plan.chunks, plan.tokens):
            chosen.append(whole)
            begin, end, start = start + places, start + length * places, start + length * places
            if length > 1:
                first, rest = (b.op("Slice", unit, [i], [j], [1]) for i, j in ((begin - places, begin), (begin, end)))
                rest = b.op("Reshape", rest, [-1, length - 1, places, case.dim])
                cosine = b.op("ReduceSum", b.op("Mul", rest, b.op("Unsqueeze", first, [1])), [3], keepdims=0)
                m = (length - 1) * places
                changed = b.op("Reshape", b.op("Neg", cosine), [-1, 1, m])
                chosen.append(b.op("Squeeze", emit_highest_of_each(b, changed, [count], m), [1]))
        first = b.op("Mul", b.op("Unsqueeze", frames, [2]), float(places))
        position = b.op("Reshape", b.op("Add", first, select.emit_iota(b, 1, 1, places)), [-1, kept * places])
        mask = b.op("Concat", *chosen, axis=1) if len(chosen) > 1 else whole
        return select.emit_selection(b, case, tokens, emit_positions(b, mask, case.keep, kept * places, position))

    def _emit_frames(self, b: Builder, plan: _Plan, unit: ir.Value) -> ir.Value:
        """Which frames are kept [B, T] bool, for frames [B, T, P D] of length 1."""
        masks, start = [], 0
        for length, count in zip(plan.windows, plan.frames):
            frames = b.op("Slice", unit, [start], [start + length], [1])
            like = b.op("Mul", frames, b.op("ReduceMean", frames, [1], keepdims=1))
            novelty = b.op("Neg", b.op("ReduceSum", like, [2], keepdims=0))
            middle = b.const((np.arange(length) == length // 2)[None])
            novelty = b.op("Unsqueeze", b.op("Where", middle, -select.LOWEST, novelty), [1])
            masks.append(b.op("Squeeze", emit_highest_of_each(b, novelty, [count], length), [1]))
            start += length
        return b.op("Concat", *masks, axis=1) if len(masks) > 1 else masks[0]


def _novelty(plan: _Plan, tokens: torch.Tensor) -> torch.Tensor:
    """-s [B, T], the middle frame of a window above all others."""
    import torch
    from torch.nn.functional import normalize

    unit = normalize(tokens.float().unflatten(1, (-1, plan.places)).flatten(2), dim=2)
    novelty = []
    for frames in unit.split(plan.windows, 1):
        novelty.append(-(frames @ frames.mT).mean(2))
        novelty[-1][:, frames.shape[1] // 2] = -select.LOWEST
    return torch.cat(novelty, 1)


def _positions(plan: _Plan, frames: torch.Tensor) -> torch.Tensor:
    """Positions [B, F P] of the tokens of frames [B, F]."""
    import torch

    return (frames[:, :, None] * plan.places + torch.arange(plan.places, device=frames.device)).flatten(1)


def _changes(plan: _Plan, tokens: torch.Tensor, frames: torch.Tensor) -> list[torch.Tensor]:
    """For each chunk of frames [B, F] the dissimilarity of the others to the first, per position: [B, (f - 1) P]."""
    from torch.nn.functional import normalize

    unit = normalize(select.gather(tokens.float(), _positions(plan, frames)), dim=2).unflatten(1, (-1, plan.places))
    return [-(chunk[:, 1:] * chunk[:, :1]).sum(3).flatten(1) for chunk in unit.split(plan.chunks, 1)]
