"""VisionZip: keep the tokens with the highest CLS attention, and merge the others by their keys into a few.

Source: VisionZip (arXiv 2412.04467, CVPR 2025) and its code, on CLIP before the projector. For tokens X [N, D], keys
Y [N, Dk], attention a [N], K slots, of which C are contextual:

    dominant   = the K - C largest a_i, unchanged
    rest       = the R = N - K + C others, in spatial order
    targets    = every floor(R / C)-th of the rest from the first on, C of them
    each other token of the rest goes to the target t of the largest cosine(y_i, y_t)
    contextual = x_t + the mean of the tokens that went to it; x_t alone if none did

C is 5 K / 32, rounded: the paper's 10 of 64, 20 of 128 and 30 of 192, where CLS is one of the others; here prefix
tokens are not counted and not changed. Released: [dominant | contextual], here all slots in spatial order;
attention is summed over heads there, here averaged, which is the same order. C = 0, for K below 4, is `cls_topk`.

A contextual slot of n tokens, its target included, has size n, the number of tokens it represents. But its content
is not their mean, and about twice as long as a token, because the paper adds a mean to the target; log(size) assumes
means. ``merge`` "mean" uses the plain mean of all n. Domain: any K from 1 to N, C < K; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...errors import RequestError
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import Attends, emit_keep_highest, keep_highest
from .blocks.cosine import cosines, emit_cosines
from .blocks.replay import Replay, nearest_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "visionzip",
    family="attention",
    modalities=("image",),
    merges=True,
    source="VisionZip, arXiv 2412.04467",
    summary="keeps the tokens of the highest attention and merges all others by their keys into a few contextual ones",
    plugin=True,
)
@dataclass(frozen=True)
class Visionzip(Attends):
    """Parameters of VisionZip.

    Attributes:
        contextual: C, how many slots are merged; by default the paper's 5/32 of K.
        merge: ``add``, the target plus the mean of its tokens, as in the paper; ``mean``, the mean of all of them.
    """

    contextual: int | None = None
    merge: Literal["add", "mean"] = "add"

    examples = (
        Example(Case(13, 5, 4), merge="add"),
        Example(Case(13, 5, 4), merge="mean"),
        Example(Case(25, 16, 11), contextual=3),
    )

    def signals(self) -> tuple[str, ...]:
        """The attention [B, N], and ``keys`` [B, N, Dk]."""
        return (*super().signals(), "keys")

    def check(self, case: Case) -> None:
        """1 <= K <= N, 0 <= C < K."""
        select.check_keep(case)
        if not 0 <= self.contexts(case) < case.keep:
            raise RequestError(
                f"{self.contextual} contextual slots of {case.keep} leave no slot for dominant tokens",
                where=f"{case.tokens} tokens of {case.dim} channels",
                fix=f"Use --set contextual=0 to {case.keep - 1}.",
            )

    def contexts(self, case: Case) -> int:
        """C."""
        return (5 * case.keep + 16) // 32 if self.contextual is None else self.contextual

    def plugin_attributes(self, case: Case) -> dict[str, Any]:
        """C."""
        return {"contextual": self.contexts(case)}

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        if not self.contexts(case):
            return keep_highest(tokens, self.attended(signals), case.keep)
        kept, cosine = self._slots(case, **signals)
        return self._assemble(tokens, kept, cosine.argmax(2))

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Attention is not rounded, so slots must agree exactly; merges are checked by their cosine."""
        import torch

        if case.keep == case.tokens or not self.contexts(case):
            return Replay(self.reference(case, tokens, **signals), torch.zeros(len(tokens)).double())
        kept, cosine = self._slots(case, **signals)
        return Replay(
            self._assemble(tokens, kept, got.assignment.clamp(min=0)), nearest_regret(-cosine, got.assignment, 1.0)
        )

    def _slots(self, case: Case, **signals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions [B, K], and cosine [B, N, K] of every token to every target; a kept token is nearest to itself."""
        import torch

        contexts = self.contexts(case)
        order = select.top_k(self.attended(signals), case.tokens)
        dominant, rest = order[:, : case.keep - contexts], order[:, case.keep - contexts :].sort(dim=1).values
        targets = rest[:, :: rest.shape[1] // contexts][:, :contexts]
        kept = torch.cat([dominant, targets], 1).sort(dim=1).values
        keys = signals["keys"].float()
        cosine = cosines(keys, select.gather(keys, kept))
        merges = (kept[:, :, None] == targets[:, None]).any(2)
        cosine = cosine.masked_fill(~merges[:, None], select.LOWEST)
        return kept, cosine.scatter(1, kept[:, None], -select.LOWEST)

    def _assemble(self, tokens: torch.Tensor, kept: torch.Tensor, slot: torch.Tensor) -> Compressed[torch.Tensor]:
        """The slots, for the slot that each token goes to [B, N]."""
        x, own = tokens.float(), select.slots_of(kept, tokens.shape[1])
        slot = own.where(own >= 0, slot)
        out = (own < 0).float()
        count = x.new_zeros(kept.shape).scatter_add(1, slot, out)
        sums = x.new_zeros(*kept.shape, x.shape[2]).scatter_add(1, slot[..., None].expand_as(x), x * out[..., None])
        content, sizes = select.gather(x, kept), 1 + count
        if self.merge == "mean":
            content = (content + sums) / sizes[..., None]
        else:
            content = content + sums / count.clamp(min=1)[..., None]
        return Compressed(content.to(tokens.dtype), kept, sizes, slot)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """Targets by rank among the rest, one MatMul for the cosines, one for the merge."""
        n, k, contexts = case.tokens, case.keep, self.contexts(case)
        if k == n:
            return select.emit_every_token(b, case, tokens)
        attention = self.emit_attended(b, signals)
        if not contexts:
            return emit_keep_highest(b, case, tokens, attention)
        x, keys = select.emit_float(b, tokens, case), b.cast(signals["keys"], "float32")
        _, dominant = select.emit_top_k(b, attention, k - contexts, n)
        targets = self._emit_targets(b, case, b.cast(dominant, "float32"))
        chosen = b.op("Concat", dominant, b.cast(targets, "int64"), axis=1)
        kept, _ = select.emit_sort(b, chosen, k)

        own = select.emit_slots(b, kept, n, select.emit_iota(b, 1, k))
        target = b.cast(targets, "int64")
        best = select.emit_argmax(b, emit_cosines(b, keys, select.emit_gather(b, keys, target)), 2, (1, 1, contexts))
        slots = b.op("GatherElements", own, target, axis=1)
        nearest = b.op("GatherElements", slots, b.cast(b.op("Squeeze", best, [2]), "int64"), axis=1)
        stays = b.op("GreaterOrEqual", own, 0.0)
        members, count = select.emit_members(b, b.op("Where", stays, -1.0, nearest), k)
        sizes = b.op("Add", count, 1.0)

        index = b.cast(kept, "int64")
        content = select.emit_gather(b, x, index)
        if self.merge == "mean":
            shares = b.op("MatMul", b.op("Div", members, sizes), x)
            content = b.op("Add", b.op("Div", content, sizes), shares)
        else:
            content = b.op("Add", content, b.op("MatMul", b.op("Div", members, b.op("Max", count, 1.0)), x))
        assignment = b.cast(b.op("Where", stays, own, nearest), "int64")
        return Compressed(select.emit_like(b, content, case), index, b.op("Squeeze", sizes, [2]), assignment)

    def _emit_targets(self, b: Builder, case: Case, dominant: ir.Value) -> ir.Value:
        """Positions [B, C] float32, ascending, for the dominant ones [B, K - C] float32 in any order."""
        n, contexts = case.tokens, self.contexts(case)
        step = (n - case.keep + contexts) // contexts
        here = select.emit_iota(b, 1, 1, n)
        places = b.op("Unsqueeze", dominant, [2])
        before = b.op("ReduceSum", b.cast(b.op("Less", places, here), "float32"), [1], keepdims=1)
        taken = b.op("ReduceMax", b.cast(b.op("Equal", places, here), "float32"), [1], keepdims=1)
        rank = b.op("Where", b.op("Greater", taken, 0.0), -1.0, b.op("Sub", here, before))
        wanted = b.op("Mul", select.emit_iota(b, 1, contexts, 1), float(step))
        return b.op("ReduceMax", b.op("Where", b.op("Equal", rank, wanted), here, -1.0), [2], keepdims=0)
