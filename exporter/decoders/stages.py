"""Compressors between the layers of a language model: its parts, and what a compressor reads there.

A model is parted at its cuts. The parts share the layers of the model, whose own forward runs each of them: masks,
rotary tables and norms stay its own. Behind a cut the sequence is shorter by the tokens that the compressor removed.

In PyTorch a compressor runs its reference. In a graph it is one opaque node, which `insertion.fill` gives its body, so
that a graph has our compressor and not a trace of the reference.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...graph_passes.compressors import Case, Compressor
from ...graph_passes.insertion.fill import OPAQUE

# The signal of a compressor that reads attention: here that of the last id of the prompt.
ATTENTION = "cls_attention"


@dataclass(frozen=True)
class Cut:
    """One compressor between layers.

    Attributes:
        layer: the first one behind it.
        compressor: with its parameters.
        case: the tokens that reach it, and K.
        size_bias: whether layers behind it add log(sizes) of what it merges.
    """

    layer: int
    compressor: Compressor
    case: Case
    size_bias: bool


def parts(model: nn.Module, cuts: Sequence[Cut]) -> list[nn.Module]:
    """The layers of `model` up to the first cut, from there to the next, ...; the last part has the norm.

    Without cuts that is `model` itself.
    """
    if not cuts:
        return [model]
    whole: Any = model
    ends = [0, *(cut.layer for cut in cuts), len(whole.layers)]
    return [_part(whole, first, last) for first, last in itertools.pairwise(ends)]


def _part(model: Any, first: int, last: int) -> nn.Module:
    part = copy.copy(model)
    part.config = copy.copy(model.config)
    part.config.num_hidden_layers = last - first
    if getattr(model.config, "layer_types", None):
        part.config.layer_types = model.config.layer_types[first:last]
    part._modules = {**model._modules, "layers": nn.ModuleList(model.layers[first:last])}
    if last < len(model.layers):
        part._modules["norm"] = nn.Identity()
    return part


class LastRow:
    """Watches the attention of one layer: the mean over heads of its last id's row, beside the fused attention.

    Args:
        layer: that is watched.
        last: [B] int64, the row.

    Attributes:
        weights: [B, L] float32, once the layer has run.
    """

    def __init__(self, layer: int, last: Tensor) -> None:
        self.layer, self.last = layer, last
        self.weights: Tensor | None = None

    def __call__(self, layer: int, query: Tensor, key: Tensor, mask: Tensor, softcap: float | None) -> None:
        """See `attention.attention`, which has scaled the queries."""
        if layer != self.layer:
            return
        batch, heads, _, dim = query.shape
        groups, row = key.shape[1], self.last[:, None, None, None]
        query = query.gather(2, row.expand(-1, heads, -1, dim)).reshape(batch, groups, heads // groups, dim)
        logits = (query @ key.transpose(2, 3)).reshape(batch, heads, 1, -1)
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        mask = mask.expand(batch, -1, -1, -1)
        logits = logits + mask.gather(2, row.expand(-1, 1, -1, mask.shape[3]))
        self.weights = logits.softmax(-1).mean(1)[:, 0].float()


class Compress(nn.Module):
    """tokens [B, N, D], signals [B, N] float32 -> tokens [B, K, D], kept_indices [B, K] int64, sizes [B, K] float32,
    assignment [B, N] int64.

    Args:
        cut: where.
        number: of the cut, from 1.

    Attributes:
        given: what it returns in PyTorch in the place of what the reference finds; for the proof.
        read: what it was last given in PyTorch.
    """

    def __init__(self, cut: Cut, number: int) -> None:
        super().__init__()
        self.cut, self.number = cut, number
        self.given: tuple[Tensor, ...] | None = None
        self.read: tuple[Tensor, ...] = ()

    def forward(self, tokens: Tensor, *signals: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        case, batch = self.cut.case, tokens.shape[0]
        if torch.compiler.is_exporting():
            return tuple(
                torch.onnx.ops.symbolic_multi_out(
                    OPAQUE,
                    (tokens, *signals),
                    {"number": self.number},
                    dtypes=(tokens.dtype, torch.int64, torch.float32, torch.int64),
                    shapes=((batch, case.keep, case.dim), *[(batch, case.keep)] * 2, (batch, case.tokens)),
                    version=1,
                )
            )
        self.read = (tokens, *signals)
        if self.given is not None:
            return self.given
        names = self.cut.compressor.signals()
        found = self.cut.compressor.reference(case, tokens, **dict(zip(names, signals, strict=True)))
        return found.tokens, found.kept_indices, found.sizes, found.assignment


def shortened(
    compress: Compress, hidden: Tensor, offset: int, kept: Tensor, bias: Tensor, watch: LastRow
) -> tuple[Tensor, Tensor, Tensor]:
    """A sequence behind a cut.

    Args:
        compress: of the cut.
        hidden: [B, L, D] in front of it.
        offset: ids before the tokens.
        kept: [B, N], which of all tokens these are.
        bias: [B, N], log of how many each stands for.
        watch: has seen the layer in front of it.

    Returns:
        [B, L - N + K, D]; kept and bias [B, K] of what is left.
    """
    end = offset + kept.shape[1]
    signals: list[Tensor] = []
    if compress.cut.compressor.signals():
        assert watch.weights is not None, "the layer has run"
        signals = [watch.weights[:, offset:end]]
    tokens, index, _, assignment = compress(hidden[:, offset:end], *signals)
    own = bias.gather(1, index)
    if compress.cut.size_bias and compress.cut.compressor.method.merges:
        into = (assignment[:, None] == torch.arange(compress.cut.case.keep)[None, :, None]).to(bias.dtype)
        # A sum, not a product of matrices, which TF32 would round. A slot that nothing went into stays what it was.
        bias = torch.where(into.sum(-1) > 0, (into * bias.exp()[:, None]).sum(-1), own.exp()).log()
    else:
        bias = own
    return torch.cat([hidden[:, :offset], tokens, hidden[:, end:]], 1), kept.gather(1, index), bias
