"""LFTR: at each place of a video the frames that change least are merged away, then each frame keeps what is on topic.

Source: LFTR (arXiv 2501.17391). For tokens X [T, P, D] of T frames of P places and K slots:

    differential    w_tp = |x_tp - x_t-1,p|
    similarity      w_tp = 1 - cosine(x_tp, x_t-1,p)
    temporal        at each place all but the T' - 1 largest w are merged into the time step before; the first frame
                    stays, so T' tokens are left at each place, the means of the runs that begin at them
    spatial         the i-th of all places are frame i; it keeps the tokens of the largest cosine with its mean

The lowest index wins among equals. A slot inherits the position of the first token of its run, and its size is their
number. K is shared out evenly over the T' frames. T' is T less floor(`merged` T); where `merged` is not given that is
half of the frames, or fewer where K asks for more than they leave.

Fixed counts are the paper's own. Approximate, because it leaves open the norm and the sign of w, and whether merging
one after the other weighs all tokens alike (here: L2, little change merges, and yes); it compares with CLS where a
model has it, for which the mean stands here, and its form that compares with a text is left out.
Law: 1 <= K <= T' P, so with `merged` not given any K from 1 to N; K = N is the identity.
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

_SHORTEST = 1e-30  # the norm of what cancelled; what is divided by it is judged by nothing


@compressor(
    "lftr",
    family="similarity",
    modalities=("video",),
    merges=True,
    source="LFTR, arXiv 2501.17391",
    seam="projector_output",
    summary="merges the frames that change least at each place, then keeps what is most like the mean of its frame",
    approximate=True,
)
@dataclass(frozen=True)
class Lftr:
    """Parameters of LFTR.

    Attributes:
        weight: what a token of a frame must do to stay: ``differential``, move far; ``similarity``, turn far.
        merged: r_m, share of the frames that are merged away at each place; by default half, or less.
        grid: FRAMESxHEIGHTxWIDTH of the tokens, where the model does not say it.
    """

    weight: Literal["differential", "similarity"] = "differential"
    merged: float | None = None
    grid: str | None = None

    examples = (
        Example(
            Case(60, 5, 1, grid=(5, 3, 4)),
            Case(60, 5, 20, grid=(5, 3, 4)),
            Case(60, 5, 37, grid=(5, 3, 4)),
            Case(60, 5, 60, grid=(5, 3, 4)),
            Case(12, 3, 5, grid=(1, 3, 4)),
            weight="differential",
        ),
        Example(
            Case(60, 5, 1, grid=(5, 3, 4)),
            Case(60, 5, 20, grid=(5, 3, 4)),
            Case(60, 5, 37, grid=(5, 3, 4)),
            Case(60, 5, 60, grid=(5, 3, 4)),
            Case(12, 3, 5, grid=(1, 3, 4)),
            weight="similarity",
        ),
    )

    def __post_init__(self) -> None:
        if self.merged is not None and not 0 <= self.merged < 1:
            raise RequestError(
                f"merged {self.merged} is outside 0..1: the first frame stays",
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
        """T', frames that are left, and P, places."""
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
        # Places of one frame may begin at different times, so spatial order goes across frames.
        chosen = torch.zeros_like(heads).flatten(1).scatter(1, rows.flatten(1), best.flatten(1))
        return merge_runs(tokens, head, positions_of(chosen))

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor]) -> Replay:
        """Where runs begin is seen at kept slots; all other runs are taken to be the best that leave these possible."""
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
        """w [B, T, P], of the first frame above all others, and what its rounding is relative to."""
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
        """What is left where heads [B, T, P] are.

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
        # What opposite tokens leave of each other is short, and its direction is their rounding.
        own = length / frames.norm(dim=2).clamp(min=_SHORTEST)
        common = length.mean(1, keepdim=True) / mean.norm(dim=2).clamp(min=_SHORTEST)
        topical = cosines(frames, mean)[..., 0]
        return head, rows, topical.view_as(rows), (own + common).clamp(min=1).view_as(rows)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """Runs place by place; a frame that is left is gathered from the times at which its runs begin."""
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
        """Where runs begin, [B P, T] bool."""
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
