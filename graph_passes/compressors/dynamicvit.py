"""dynamicvit: keep the K tokens that a small trained network gives the highest score, unchanged.

Source: DynamicViT (Rao et al. 2021, arXiv 2106.02034) and its code, at inference. For tokens X [N, D], 4 divides D:

    Z = gelu(W norm(x) + b)                                    [N, D]
    u_i = the first half of the channels of z_i, and the mean over all tokens of the second half
    s_i = log-softmax of an MLP of u_i: D -> D / 2 -> D / 4 -> 2, its first entry, "keep"
    kept = the K largest s_i, the lowest index first among equals

Weights, as the released checkpoints name them, after "score_predictor.<stage>.": in_conv.0 (norm, epsilon 1e-5),
in_conv.1 (W), out_conv.0, out_conv.2 and out_conv.4 (the MLP), each with its bias; a .pth file is saved again as
.safetensors. Tokens removed at an earlier stage are no part of the mean there either.

Released: in front of blocks 3, 6 and 9 of 12, which is behind the layers 2, 5 and 8, K = int(N .7), int(N .49) and
int(N .343): the recipe `dynamicvit-blocks`. Slots are in spatial order, there by score; blocks do not see the order.
Domain: any K from 1 to N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import emit_keep_highest, keep_highest
from .blocks.layers import layer_norm, linear
from .blocks.neural import emit_floats, emit_gelu, emit_layer_norm, emit_linear, linear_shapes, norm_shapes
from .blocks.replay import Replay, top_k_regret
from .blocks.weights import ReadsWeights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_EPSILON = 1e-5


@compressor(
    "dynamicvit",
    family="attention",
    modalities=("image", "audio"),
    merges=False,
    source="DynamicViT, arXiv 2106.02034",
    summary="keeps the tokens that a small network with weights from a file scores highest",
)
@dataclass(frozen=True)
class Dynamicvit(ReadsWeights):
    """Parameters of DynamicViT.

    Attributes:
        stage: which of the networks in the file, counted from 0: each place of the encoder has its own.
    """

    stage: int = 0

    examples = (Example(Case(13, 8, 4)), Example(Case(6, 4, 6), stage=1))

    def __post_init__(self) -> None:
        if self.stage < 0:
            raise RequestError(f"stage {self.stage} is negative", where="method 'dynamicvit'", fix="Use --set stage=0.")

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """As above."""
        d, at = case.dim, f"score_predictor.{self.stage}."
        layers = norm_shapes(f"{at}in_conv.0", d) | linear_shapes(f"{at}in_conv.1", d, d)
        for name, wide, into in (("0", d, d // 2), ("2", d // 2, d // 4), ("4", d // 4, 2)):
            layers |= linear_shapes(f"{at}out_conv.{name}", wide, into)
        return layers

    def check(self, case: Case) -> None:
        """1 <= K <= N, and D a multiple of 4."""
        select.check_keep(case)
        if case.dim % 4:
            raise RequestError(
                f"dynamicvit halves channels twice, and {case.dim} is no multiple of 4",
                where=f"{case.tokens} tokens of {case.dim} channels",
                fix="Use an encoder with such channels, or another method.",
            )

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above."""
        return keep_highest(tokens, self._logits(tokens, w).log_softmax(2)[..., 0], case.keep)

    def replay(self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **w: torch.Tensor) -> Replay:
        """The score falls with the second entry minus the first; each is rounded relative to the largest of its row."""
        logits = self._logits(tokens, w)
        scale = (logits.abs().amax((1, 2))[:, None] + 1).expand(logits.shape[:2])
        kept = select.slots_of(got.kept_indices, case.tokens) >= 0
        regret = top_k_regret(logits[..., 0] - logits[..., 1], kept, scale)
        return Replay(select.selection(tokens, got.kept_indices), regret)

    def _logits(self, tokens: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B, N, 2] float32."""
        import torch
        from torch.nn import functional as F

        w = {name.split(".", 2)[2]: value.float() for name, value in weights.items()}
        z = F.gelu(linear(layer_norm(tokens.float(), w, "in_conv.0", _EPSILON), w, "in_conv.1"))
        own, others = z.chunk(2, 2)
        u = torch.cat([own, others.mean(1, keepdim=True).expand_as(own)], 2)
        return linear(F.gelu(linear(F.gelu(linear(u, w, "out_conv.0")), w, "out_conv.2")), w, "out_conv.4")

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """One wide linear layer, a mean, three narrow layers, a LogSoftmax, one TopK, one gather."""
        at, half = f"score_predictor.{self.stage}.", case.dim // 2
        x, w = select.emit_float(b, tokens, case), emit_floats(b, w, case)
        z = emit_layer_norm(b, x, w, f"{at}in_conv.0", _EPSILON)
        z = emit_gelu(b, emit_linear(b, z, w, f"{at}in_conv.1"))
        mean = b.op("ReduceMean", b.op("Slice", z, [half], [case.dim], [2]), [1], keepdims=1)
        mean = b.op("Expand", mean, [1, case.tokens, 1])
        z = b.op("Concat", b.op("Slice", z, [0], [half], [2]), mean, axis=2)
        for name in ("0", "2"):
            z = emit_gelu(b, emit_linear(b, z, w, f"{at}out_conv.{name}"))
        both = b.op("LogSoftmax", emit_linear(b, z, w, f"{at}out_conv.4"), axis=2)
        return emit_keep_highest(b, case, tokens, b.op("Squeeze", b.op("Slice", both, [0], [1], [2]), [2]))
