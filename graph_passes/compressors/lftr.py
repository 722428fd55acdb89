"""LFTR: at each position of a video the frames that change least are merged, then each frame keeps its typical tokens.

Source: LFTR (arXiv 2501.17391). For tokens X [T, P, D] of T frames of P positions and K slots:

    differential    w_tp = |x_tp - x_t-1,p|
    similarity      w_tp = 1 - cosine(x_tp, x_t-1,p)
    temporal        at each position all but the T' - 1 largest w are merged into the time step before; the first frame
                    is kept, so T' tokens are left at each position, the means of the runs that begin at them
    spatial         the i-th of all positions form frame i; it keeps the tokens of the largest cosine with its mean

The lowest index wins among equals. A slot inherits the position of the first token of its run, and its size is their
number. K is divided evenly among the T' frames. T' is T - floor(`merged` T). By default `merged` is half of the frames,
or fewer if K needs more tokens than that leaves.

Fixed counts are the paper's own. Approximate: the paper does not state the norm and the sign of w, or whether repeated
merging weighs all tokens equally (here: L2, little change merges, and yes). It compares with CLS if a model has it;
here the mean replaces it. Its form that compares with a text is left out.
Domain: 1 <= K <= T' P, so any K from 1 to N unless `merged` is set; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.cosine import cosines, emit_unit
from .blocks.frames import cosines_before, emit_cosines_before, emit_neighbours, neighbours
from .blocks.grids import video_grid_of
from .blocks.replay import Replay, top_k_regret
from .blocks.runs import (
    emit_by_place,
    emit_merge_runs,
    emit_run_frames,
    emit_run_means,
    merge_runs,
    run_heads,
    run_means,
)
from .blocks.shares import emit_highest_of_each, emit_positions, highest_of_each, positions_of, share

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_SHORTEST = 1e-30  # norm below which a sum has cancelled; its direction is not checked


_CASES = (
    Case(60, 5, 1, grid=(5, 3, 4)),
    Case(60, 5, 20, grid=(5, 3, 4)),
    Case(60, 5, 37, grid=(5, 3, 4)),
    Case(60, 5, 60, grid=(5, 3, 4)),
    Case(12, 3, 5, grid=(1, 3, 4)),
)


@compressor(
    "lftr",
    family="similarity",
    modalities=("video",),
    merges=True,
    source="LFTR, arXiv 2501.17391",
    seam="projector_output",
    summary="merges frames that change least at each position, then keeps the tokens most like their frame's mean",
    approximate=True,
)
@dataclass(frozen=True)
class Lftr:
    """Parameters of LFTR.

    Attributes:
        weight: the change by which a token is kept: ``differential``, distance; ``similarity``, angle.
        merged: r_m, share of the frames that are merged at each position; by default half, or less.
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    weight: Literal["differential", "similarity"] = "differential"
    merged: float | None = None
    grid: str | None = None

    examples = (
        Example(
            *_CASES,
            weight="differential",
        ),
        Example(
            *_CASES,
            weight="similarity",
        ),
    )

    def __post_init__(self) -> None:
        if self.merged is not None and not 0 <= self.merged < 1:
            raise RequestError(
                f"merged {self.merged} is outside 0..1: the first frame is always kept",
                where="method 'lftr'",
                fix="Use for example --set merged=0.5.",
            )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def check(self, case: Case) -> None:
        """A video, and 1 <= K <= T' P."""
        left, places = self.sides(case)
        select.check_keep(case)
        if case.keep > left * places:
            raise RequestError(
                f"keep {case.keep} is more than merged={self.merged} leaves: {left} frames of {places} tokens",
                where=f"{case.tokens} tokens of {case.dim} channels",
                fix=f"Use --keep 1 to {left * places}, or leave merged out.",
            )

    def sides(self, case: Case) -> tuple[int, int]:
        """T', the number of frames left, and P, positions per frame."""
        frames, height, width = video_grid_of(case, self.grid)
        places = height * width
        if self.merged is None:
            return max(frames - frames // 2, -(-case.keep // places)), places
        return frames - int(self.merged * frames), places

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        import torch

        left, places = self.sides(case)
        weight, _ = self._weights(case, tokens)
        heads = highest_of_each(weight.mT, [left] * places).mT
        head, rows, topical, _ = self._frames(case, tokens, heads)
        best = highest_of_each(topical, share(case.keep, [places] * left))
        # Runs of one frame may begin at different times, so spatial order crosses frames.
        chosen = torch.zeros_like(heads).flatten(1).scatter(1, rows.flatten(1), best.flatten(1))
        return merge_runs(tokens, head, positions_of(chosen))

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """Kept slots show where runs begin; all other runs are taken to be the best ones compatible with these."""
        import torch

        left, places = self.sides(case)
        weight, scale = self._weights(case, tokens)
        kept = select.slots_of(got.kept_indices, case.tokens)
        begins = (kept >= 0).view_as(weight)
        inside = ((got.assignment >= 0) & (kept != got.assignment)).view_as(weight)
        forced = weight.masked_fill(begins, -select.LOWEST).masked_fill(inside, select.LOWEST)
        heads = highest_of_each(forced.mT, [left] * places).mT
        head, rows, topical, rounding = self._frames(case, tokens, heads)
        best = (kept >= 0).gather(1, rows.flatten(1)).view_as(rows)
        fits = (begins & ~heads).sum((1, 2)) + (inside & heads).sum((1, 2)) == 0
        right = (best.sum(2) == torch.tensor(share(case.keep, [places] * left), device=best.device)).all(1)
        temporal = top_k_regret(*(x.mT.flatten(0, 1) for x in (weight, heads, scale))).view(-1, places).amax(1)
        spatial = top_k_regret(*(x.flatten(0, 1) for x in (topical, best, rounding))).view(-1, left).amax(1)
        regret = torch.where((fits & right).cpu(), torch.maximum(temporal, spatial), torch.inf)
        return Replay(merge_runs(tokens, head, got.kept_indices), regret)

    def _weights(self, case: Case, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """w [B, T, P], the first frame's above all others, and what its rounding is relative to."""
        from torch.nn.functional import pad

        x, (_, places) = tokens.float(), self.sides(case)
        if self.weight == "similarity":
            weight = 1 - cosines_before(x, places)
            scale = weight.new_ones(weight.shape)
        else:
            now, before = neighbours(x, places)
            weight = scale = (now - before).norm(dim=2)
        weight, scale = pad(weight, (places, 0), value=-select.LOWEST), pad(scale, (places, 0), value=1)
        return weight.unflatten(1, (-1, places)), scale.unflatten(1, (-1, places))

    def _frames(
        self, case: Case, tokens: torch.Tensor, heads: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The tokens left for heads [B, T, P].

        Returns:
            The head [B, N] of each token, the heads [B, T', P] of each frame that is left, their cosine with its
            mean, and what the rounding of that is relative to.
        """
        left, places = self.sides(case)
        x, head = tokens.float(), run_heads(heads)
        frame = positions_of(heads.mT.flatten(0, 1)).view(-1, places, left).mT
        rows = frame * places + frame.new_tensor(range(places))
        content, _ = run_means(x, head)
        frames = select.gather(content, rows.flatten(1)).view(-1, places, x.shape[2])
        length, _ = run_means(x.norm(dim=2, keepdim=True), head)
        length = select.gather(length, rows.flatten(1)).view(-1, places)
        mean = frames.mean(1, keepdim=True)
        # The sum of opposite tokens is short, and its direction is rounding error.
        own = length / frames.norm(dim=2).clamp(min=_SHORTEST)
        common = length.mean(1, keepdim=True) / mean.norm(dim=2).clamp(min=_SHORTEST)
        topical = cosines(frames, mean)[..., 0]
        return head, rows, topical.view_as(rows), (own + common).clamp(min=1).view_as(rows)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """Runs position by position; a remaining frame is gathered from the times at which its runs begin."""
        n, (left, places) = case.tokens, self.sides(case)
        if case.keep == n:
            return select.emit_every_token(b, case, tokens)
        frames = n // places
        x = select.emit_float(b, tokens, case)
        by_place = emit_by_place(b, x, frames, places, case.dim)
        heads = self._emit_heads(b, case, x, by_place)
        head = emit_run_frames(b, heads, frames)
        content, sizes = emit_run_means(b, by_place, head, frames)

        begins = emit_positions(b, heads, left, frames)
        rows = b.op("Reshape", select.emit_gather(b, content, b.cast(begins, "int64")), [-1, places, left, case.dim])
        rows = b.op("Reshape", b.op("Transpose", rows, perm=[0, 2, 1, 3]), [-1, places, case.dim])
        topic = emit_unit(b, b.op("ReduceMean", rows, [1], keepdims=1))
        topical = b.op("ReduceSum", b.op("Mul", emit_unit(b, rows), topic), [2], keepdims=0)
        topical = b.op("Reshape", topical, [-1, left, places])
        chosen = emit_highest_of_each(b, topical, share(case.keep, [places] * left), places)

        time = b.op("Transpose", b.op("Reshape", begins, [-1, places, left]), perm=[0, 2, 1])
        position = b.op("Add", b.op("Mul", time, float(places)), select.emit_iota(b, 1, 1, places))
        position, chosen = (b.op("Reshape", value, [-1, left * places]) for value in (position, chosen))
        kept = emit_positions(b, chosen, case.keep, left * places, position)
        return emit_merge_runs(b, case, frames, kept, head, content, sizes)

    def _emit_heads(self, b: Builder, case: Case, x: ir.Value, by_place: ir.Value) -> ir.Value:
        """Whether a run begins here, [B P, T] bool."""
        n, (left, places) = case.tokens, self.sides(case)
        frames = n // places
        if left == frames:
            return select.emit_rows(b, by_place, np.ones(frames, bool))
        if self.weight == "similarity":
            weight = b.op("Neg", emit_cosines_before(b, x, n, places))
        else:
            change = b.op("Sub", *emit_neighbours(b, x, n, places))
            weight = b.op("Sqrt", select.emit_square_sum(b, change, keepdims=False))
        weight = b.op("Transpose", b.op("Reshape", weight, [-1, frames - 1, places]), perm=[0, 2, 1])
        later = emit_highest_of_each(b, weight, [left - 1] * places, frames - 1)
        later = b.op("Reshape", later, [-1, frames - 1])
        return b.op("Concat", select.emit_rows(b, later, np.ones(1, bool)), later, axis=1)
