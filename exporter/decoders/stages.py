"""Compressors between the layers of a language model: its parts, and what a compressor reads there.

A model is parted at its cuts. The parts share the layers of the model, whose own forward runs each of them: masks,
rotary tables and norms stay its own. Behind a cut the sequence is shorter by the tokens that the compressor removed.
Of several images each is compressed by itself.

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
from ...graph_passes.compressors.sparsevlm import raters_among
from ...graph_passes.insertion.fill import OPAQUE
from .spans import Span

_LAST, _WORDS, _RATERS, _PEAK = (f"{who}_attention" for who in ("cls", "words", "raters", "peak"))
# What a compressor can read between layers: whose attention to the tokens that is, in the layer in front of it.
SIGNALS = {
    _LAST: "the prompt's last id",
    _WORDS: "the words behind the tokens, their mean",
    _RATERS: "those of these words that the tokens are most like where they enter the model, their mean",
    _PEAK: "the words behind the tokens, the largest of all words and heads",
}


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
        part._modules |= dict.fromkeys({"norm", "embedding_norm"} & {*model._modules}, nn.Identity())
    return part


def raters(cuts: Sequence[Cut], embeds: Tensor, span: Span, last: Tensor) -> Tensor | None:
    """Which words behind the tokens rate them, [E, W] bool, see `sparsevlm`; None where no compressor asks.

    Args:
        cuts: of the model.
        embeds: [B, L, D], as they enter the model.
        span: of the tokens.
        last: [B] int64, the place of the prompt's last id.
    """
    if not any(_RATERS in cut.compressor.signals() for cut in cuts):
        return None
    return raters_among(span.tokens(embeds), span.readers(embeds), span.real(embeds.shape[1], last))


class Watch:
    """Watches the attention of one layer, for what the compressor behind it reads, beside the fused attention.

    Args:
        layer: that is watched.
        names: of the `SIGNALS` that are read.
        span: of the tokens that the layer sees.
        last: [B] int64, the place of the prompt's last id.
        raters: [E, W] bool, which words rate the tokens, where that is read.

    Attributes:
        signals: name -> [E, K] float32, once the layer has run.
    """

    def __init__(self, layer: int, names: Sequence[str], span: Span, last: Tensor, raters: Tensor | None) -> None:
        self.layer, self.names, self.span, self.last, self.raters = layer, names, span, last, raters
        self.signals: dict[str, Tensor] = {}

    def __call__(self, layer: int, query: Tensor, key: Tensor, mask: Tensor, softcap: float | None) -> None:
        """See `attention.attention`, which has scaled the queries."""
        if layer != self.layer:
            return
        for name in self.names:
            if name == _LAST:
                row = self.last[:, None, None, None]
                mine = query.gather(2, row.expand(-1, query.shape[1], -1, query.shape[3]))
                seen = mask.expand(len(query), -1, -1, -1).gather(2, row.expand(-1, 1, -1, mask.shape[3]))
                found = self.span.paid(_weights(mine, key, seen, softcap).mean(1), lambda rows: rows[:, 0])
            else:
                weights = _weights(self.span.rows(query), key, self.span.rows(mask), softcap)
                found = self._of_words(name, weights)
            self.signals[name] = found.float()

    def _of_words(self, name: str, weights: Tensor) -> Tensor:
        """[E, K] of the attention [B, H, W, L] of the words behind the tokens, some of which are padding."""
        those = self.span.real(weights.shape[3], self.last) if name != _RATERS else self.raters
        assert those is not None, "where raters are read they are given"
        those = those[..., None].to(weights.dtype)
        if name == _PEAK:
            return self.span.paid(weights.amax(1), lambda rows: (rows * those).amax(1))
        return self.span.paid(weights.mean(1), lambda rows: (rows * those).sum(1) / those.sum(1).clamp(min=1))


def _weights(query: Tensor, key: Tensor, mask: Tensor, softcap: float | None) -> Tensor:
    """softmax(Q K^T + mask), [B, H, R, L], of some rows [B, H, R, d] and grouped keys [B, G, L, d]."""
    batch, heads, rows, dim = query.shape
    groups = key.shape[1]
    query = query.reshape(batch, groups, heads // groups * rows, dim)
    logits = (query @ key.transpose(2, 3)).reshape(batch, heads, rows, -1)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return (logits + mask).softmax(-1)


class Compress(nn.Module):
    """tokens [E, N, D], signals [E, N] float32 -> tokens [E, K, D], kept_indices [E, K] int64, sizes [E, K] float32,
    assignment [E, N] int64; see `spans`.

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
    compress: Compress, hidden: Tensor, kept: Tensor, bias: Tensor, watch: Watch
) -> tuple[Tensor, Tensor, Tensor]:
    """A sequence behind a cut.

    Args:
        compress: of the cut.
        hidden: [B, L, D] in front of it; or with further channels, of what is added behind later layers.
        kept: [B, I N], which of all tokens of its image each is.
        bias: [B, I N], log of how many each stands for.
        watch: has seen the layer in front of it.

    Returns:
        [B, L - I (N - K), ...]; kept and bias [B, I K] of what is left.
    """
    span, kept, bias = watch.span, watch.span.each(kept), watch.span.each(bias)
    signals = [watch.signals[name] for name in compress.cut.compressor.signals()]
    before, dim = span.tokens(hidden), compress.cut.case.dim
    tokens, index, _, assignment = compress(before[..., :dim], *signals)
    if further := before.shape[2] - dim:
        tokens = torch.cat([tokens, before[..., dim:].gather(1, index[..., None].expand(-1, -1, further))], -1)
    own = bias.gather(1, index)
    if compress.cut.size_bias and compress.cut.compressor.method.merges:
        into = (assignment[:, None] == torch.arange(compress.cut.case.keep)[None, :, None]).to(bias.dtype)
        # A sum, not a product of matrices, which TF32 would round. A slot that nothing went into stays what it was.
        bias = torch.where(into.sum(-1) > 0, (into * bias.exp()[:, None]).sum(-1), own.exp()).log()
    else:
        bias = own
    return span.replaced(hidden, tokens), span.together(kept.gather(1, index)), span.together(bias)
