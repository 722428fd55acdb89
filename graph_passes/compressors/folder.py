"""FOLDER: pairs of similar tokens are averaged until K are left, folding the sequence in half as often as needed.

Source: FOLDER (arXiv 2501.02430, ICCV 2025). Its parameters select one of the two forms of the released code:

    simple (the default)   `merge_features`, which its authors recommend, at any seam: the metric is the tokens
    in LLaVA               metric="keys", attention="cls", scale_by_size=False

Each round pairs even with odd tokens as ToMe does (see `tome`). To remove r of t tokens:

    similarity of an even token a to an odd b: cosine(M_a, M_b) - 100 alpha attention_a
    r <= floor((t - 1) / 2): one round. Else fold: rounds of floor((t - 1) / 2), until K are left
    a slot is the mean of its tokens, and its size is their number
    scale_by_size: times 1 + ln(size), unless one round did it and r >= floor(K / 2)

so tokens that CLS attends to are not merged. The attention of a slot is the mean over the tokens of its last merge.
Slots are in spatial order, as in the simple form. Differs from the form in LLaVA: rounds also work with fewer than 40
tokens, where that code fails. There it sits between attention and MLP of the last block that is used (the recipe
`folder-last-block`); behind the encoder the attention is that of its last block.
Domain: any K from 2 to N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.bipartite import emit_fold, fold, rounds
from .blocks.means import emit_mean_rows, means
from .blocks.replay import Replay
from .replays.bipartite import refold_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_ATTENTION = 100.0  # the released code's unit of alpha


@compressor(
    "folder",
    family="similarity",
    modalities=("image", "video", "audio"),
    merges=True,
    source="FOLDER, arXiv 2501.02430",
    summary="averages the most similar pairs, and scales slots of many tokens up",
    heavy="cosines of half the tokens to the other half, round after round",
)
@dataclass(frozen=True)
class Folder:
    """Parameters of FOLDER.

    Attributes:
        metric: what similarity is computed from: the tokens, or keys of the last attention.
        attention: what protects a token from being merged: nothing, its CLS attention, or the attention it receives
            from all.
        alpha: strength of that protection, in hundreds; read only with an attention.
        scale_by_size: whether a slot is multiplied by 1 + ln(size).
    """

    metric: Literal["tokens", "keys"] = "tokens"
    attention: Literal["none", "cls", "received"] = "none"
    alpha: float = 5.0
    scale_by_size: bool = True

    examples = (
        Example(Case(13, 5, 4)),
        Example(Case(13, 5, 4), metric="keys", attention="cls", scale_by_size=False),
        Example(Case(13, 5, 4), metric="keys", attention="received", alpha=0.01),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1000:
            raise RequestError(
                f"alpha {self.alpha} is outside 0..1000", where="method 'folder'", fix="Use --set alpha=5, as in LLaVA."
            )

    def signals(self) -> tuple[str, ...]:
        """``keys`` [B, N, Dk] and an attention [B, N], if the parameters need them."""
        keys = ("keys",) if self.metric == "keys" else ()
        return keys if self.attention == "none" else (f"{self.attention}_attention", *keys)

    def check(self, case: Case) -> None:
        """2 <= K <= N."""
        select.check_keep(case, min(2, case.tokens), "folding stops at two tokens")

    def rounds(self, case: Case) -> list[int]:
        """How many tokens each round removes."""
        return rounds(case.tokens, case.keep, lambda t: (t - 1) // 2)

    def scales(self, case: Case) -> bool:
        """Whether slots are multiplied by 1 + ln(size)."""
        once = len(self.rounds(case)) == 1
        return self.scale_by_size and not (once and case.tokens - case.keep >= case.keep // 2)

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """The rounds above."""
        if case.keep == case.tokens:
            return select.every_token(tokens)
        metric, cost = self._metric(tokens, **signals)
        return self._slots(case, tokens, *fold(metric, self.rounds(case), cost))

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Merges that lead to the same slots, each checked by its similarity."""
        metric, cost = self._metric(tokens, **signals)
        regret = refold_regret(metric, self.rounds(case), got.kept_indices, got.assignment, cost)
        return Replay(self._slots(case, tokens, got.kept_indices, got.assignment.clamp(min=0)), regret)

    def _metric(self, tokens: torch.Tensor, **signals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[B, N, Dk], and the cost of merging a token away [B, N]."""
        metric = signals.get("keys", tokens).float()
        if self.attention == "none":
            return metric, None
        return metric, signals[f"{self.attention}_attention"].float() * (_ATTENTION * self.alpha)

    def _slots(
        self, case: Case, tokens: torch.Tensor, kept: torch.Tensor, slot: torch.Tensor
    ) -> Compressed[torch.Tensor]:
        """Means by slot, scaled up by the number of tokens."""
        merged = means(tokens.float(), kept, slot)
        scale = 1 + merged.sizes.log() if self.scales(case) else merged.sizes.new_ones(())
        return Compressed((merged.tokens * scale[..., None]).to(tokens.dtype), kept, merged.sizes, slot)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """Rounds on the metric only; the tokens are merged once, after the last."""
        if case.keep == case.tokens:
            return select.emit_every_token(b, case, tokens)
        x = select.emit_float(b, tokens, case)
        metric = select.emit_float(b, signals["keys"], case) if self.metric == "keys" else x
        cost = None
        if self.attention != "none":
            attention = b.cast(signals[f"{self.attention}_attention"], "float32")
            cost = b.op("Mul", attention, float(_ATTENTION * self.alpha))
        kept, slot = emit_fold(b, metric, case.tokens, self.rounds(case), cost)
        content, sizes = emit_mean_rows(b, x, slot, case.keep)
        if self.scales(case):
            content = b.op("Mul", content, b.op("Add", b.op("Log", sizes), 1.0))
        return Compressed(
            select.emit_like(b, content, case),
            b.cast(kept, "int64"),
            b.op("Squeeze", sizes, [2]),
            b.cast(slot, "int64"),
        )
