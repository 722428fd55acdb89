"""The layers of a Q-Former: queries attend to each other and to tokens, in BERT's order (norm after each sum).

For queries [B, Q, d] and tokens [B, n, D], in each of L layers, of which every `cross`-th, starting with the
first, has cross-attention:

    q = norm(q + attention(q, q, q));   q = norm(q + attention(q, x, x));   q = norm(q + W2 gelu(W1 q + b1) + b2)

Weights by name: queries [Q, d], norm (of the queries, before the first layer), and for layer i: i.self,
i.self_norm, i.cross, i.cross_norm, i.up [4 d, d], i.down [d, 4 d], i.norm; of an attention .q, .k, .v, .out with
.weight and .bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....errors import RequestError
from ..base import Case
from .layers import attention, layer_norm, linear
from .neural import (
    attention_shapes,
    emit_attention,
    emit_gelu,
    emit_layer_norm,
    emit_linear,
    linear_shapes,
    norm_shapes,
)
from .weights import ReadsWeights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder

_EPSILON = 1e-12  # BERT's


@dataclass(frozen=True)
class HasQueryLayers(ReadsWeights):
    """The parameters of every Q-Former.

    Attributes:
        layers: L, how many.
        heads: of each attention.
        channels: d, which is D' too.
        cross: number of layers per cross-attention.
    """

    layers: int = 12
    heads: int = 12
    channels: int = 768
    cross: int = 2

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def width(self, case: Case) -> int:
        """D'."""
        return self.channels

    def of_queries(self, queries: int) -> QueryLayers:
        """The layers for this number of queries."""
        return QueryLayers(queries, self.layers, self.heads, self.channels, self.cross)


@dataclass(frozen=True)
class QueryLayers:
    """Their sizes.

    Attributes:
        queries: Q.
        layers: L, how many.
        heads: of each attention.
        width: d.
        cross: number of layers per cross-attention.
    """

    queries: int
    layers: int
    heads: int
    width: int
    cross: int

    def check(self) -> None:
        """Raise `RequestError` for invalid sizes."""
        if min(self.queries, self.layers, self.heads, self.width, self.cross) < 1 or self.width % self.heads:
            raise RequestError(
                f"{self.layers} layers of {self.width} channels in {self.heads} heads, cross-attention in every "
                f"{self.cross}. do not form a Q-Former",
                fix="All must be 1 or more, and heads must divide channels, as --set channels=768 --set heads=12.",
            )

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every array, for tokens of `dim` channels."""
        d = self.width
        shapes: dict[str, tuple[int, ...]] = {"queries": (self.queries, d), **norm_shapes("norm", d)}
        for i in range(self.layers):
            shapes |= attention_shapes(f"{i}.self", d, d, d) | norm_shapes(f"{i}.self_norm", d)
            if i % self.cross == 0:
                shapes |= attention_shapes(f"{i}.cross", d, dim, d) | norm_shapes(f"{i}.cross_norm", d)
            shapes |= linear_shapes(f"{i}.up", d, 4 * d) | linear_shapes(f"{i}.down", 4 * d, d)
            shapes |= norm_shapes(f"{i}.norm", d)
        return shapes

    def run(self, x: torch.Tensor, w: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """x [B, n, D] float32 -> [B, Q, d]."""
        from torch.nn import functional as F

        q = layer_norm(w["queries"], w, "norm", _EPSILON).expand(len(x), -1, -1)
        for i in range(self.layers):
            q = layer_norm(q + attention(q, q, q, w, f"{i}.self", self.heads), w, f"{i}.self_norm", _EPSILON)
            if i % self.cross == 0:
                q = layer_norm(q + attention(q, x, x, w, f"{i}.cross", self.heads), w, f"{i}.cross_norm", _EPSILON)
            q = layer_norm(q + linear(F.gelu(linear(q, w, f"{i}.up")), w, f"{i}.down"), w, f"{i}.norm", _EPSILON)
        return q

    def emit(self, b: Builder, x: ir.Value, w: Mapping[str, ir.Value]) -> ir.Value:
        """As `run`. Queries are repeated for the batch, whose size is dynamic."""
        batch = b.op("Concat", b.op("Shape", x, start=0, end=1), [self.queries, self.width], axis=0)
        q = b.op("Expand", b.op("Unsqueeze", emit_layer_norm(b, w["queries"], w, "norm", _EPSILON), [0]), batch)

        def added(q: ir.Value, more: ir.Value, name: str) -> ir.Value:
            return emit_layer_norm(b, b.op("Add", q, more), w, name, _EPSILON)

        for i in range(self.layers):
            own = emit_attention(b, q, q, q, w, f"{i}.self", self.heads, self.width)
            q = added(q, own, f"{i}.self_norm")
            if i % self.cross == 0:
                seen = emit_attention(b, q, x, x, w, f"{i}.cross", self.heads, self.width)
                q = added(q, seen, f"{i}.cross_norm")
            hidden = emit_gelu(b, emit_linear(b, q, w, f"{i}.up"))
            q = added(q, emit_linear(b, hidden, w, f"{i}.down"), f"{i}.norm")
        return q
