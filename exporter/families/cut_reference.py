"""Compressors between the layers of a model of transformers, by hooks around the layers themselves.

Nothing here knows the stages of our graphs: the model runs as it is, with one sequence and one mask. Behind a cut every
layer is given the rows and columns that are left. What a compressor reads are the hidden states in front of its layer,
and what words pay the tokens in the eager attention of the layer before; see `stages.SIGNALS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..decoders.stages import Cut

# So near to each other, relative to the largest, two scores may fall either way by rounding.
_NEAR = 1e-4
# So little below the mean counts as the mean.
_EVEN = 1e-5


class Cuts:
    """What is left of one prompt of L words and tokens behind each cut.

    Args:
        language: of transformers.
        cuts: upstream first.
        span: where the K tokens stand in the sequence.
        kept: [1, K] int64, which of all tokens they are.
        bias: [1, L] float32, added to the mask of every layer up to the first cut.
        embeds: [1, L, D], what enters the language model.
        own: what the graph kept behind each cut, ``kept_indices_<j>``: taken where scores are equal but for rounding.

    Attributes:
        picks: ``kept_indices_<j>`` [1, K_j] int64 -> which of all tokens are left behind cut j.
    """

    def __init__(
        self,
        language: Any,
        cuts: Sequence[Cut],
        span: tuple[int, int],
        kept: Tensor,
        bias: Tensor,
        embeds: Tensor,
        own: Mapping[str, np.ndarray],
    ) -> None:
        self._language, self._cuts, self._own = language, cuts, own
        self._start, self._count = span
        self.picks: dict[str, np.ndarray] = {}
        self._kept = [kept]
        # Places in the sequence that are left behind each cut, and what is added to the mask there.
        self._left: list[Tensor] = [torch.arange(bias.shape[1])]
        self._bias: list[Tensor] = [bias]
        self._signals: dict[str, Tensor] = {}
        tokens, words = embeds[0, span[0] : sum(span)], embeds[0, sum(span) :]
        likeness = (tokens @ words.T).softmax(1).mean(0)
        self._raters = likeness > likeness.mean() * (1 - _EVEN)

    def stage(self, layer: int) -> int:
        """How many cuts are in front of a layer."""
        return sum(cut.layer <= layer for cut in self._cuts)

    def bias(self, layer: int) -> Tensor:
        """[1, L_j] of the words and tokens of the prompt that a layer sees."""
        return self._bias[self.stage(layer)]

    def times(self, layer: int) -> Tensor:
        """[L_j] int64, how often a linear attention counts each of these."""
        return self.bias(layer)[0].exp().round().long()

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, the language model has the cuts."""
        layers, handles, adds = self._language.layers, [], getattr(self._language, "_deepstack_process", None)
        if adds is not None:
            self._language._deepstack_process = self._added(adds)
        for number, layer in enumerate(layers):
            if not self.stage(number):
                continue
            handles.append(layer.register_forward_pre_hook(self._before(number), with_kwargs=True))
        for cut in self._cuts:
            # A layer that carries a state pays nothing to tokens.
            if hasattr(layers[cut.layer - 1], "self_attn"):
                handles.append(layers[cut.layer - 1].self_attn.register_forward_hook(self._watch))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            if adds is not None:
                self._language._deepstack_process = adds

    def _added(self, own: Any) -> Any:
        """Features are added to the tokens that are left."""

        def added(hidden: Tensor, tokens: Tensor, features: Tensor) -> Any:
            left = self._left[-1]
            return own(hidden, tokens[:, left], features[torch.isin(tokens[0].nonzero()[:, 0], left)])

        return added

    def _watch(self, _: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> None:
        weights = output[1]
        if weights.shape[2] > 1:
            end = self._start + self._count
            paid = weights[..., self._start : end].float()
            words = paid[:, :, end:]
            self._signals = {
                "cls_attention": paid[:, :, -1].mean(1),
                "words_attention": words.mean((1, 2)),
                "raters_attention": words[:, :, self._raters].mean((1, 2)),
                "peak_attention": words.amax((1, 2)),
            }

    def _before(self, number: int) -> Any:
        cut = next((one for one in self._cuts if one.layer == number), None)

        def before(
            _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            hidden = args[0] if args else named["hidden_states"]
            mask = named["attention_mask"]
            if hidden.shape[1] == 1:
                if mask is None or mask.ndim < 4:
                    return args, named
                # Behind the prompt every place that is left is seen.
                seen = named["past_key_values"].get_seq_length(number) + 1
                return args, {**named, "attention_mask": mask.new_zeros(1, 1, 1, seen)}
            if cut is not None:
                hidden = self._shorten(cut, hidden)
            left = self._left[self.stage(number)]
            if mask is not None:
                mask = mask[..., left] if mask.ndim < 4 else mask[:, :, left][..., left]
            changed = {**named, "attention_mask": mask}
            changed["position_embeddings"] = tuple(one[..., left, :] for one in named["position_embeddings"])
            if named.get("position_ids") is not None:
                changed["position_ids"] = named["position_ids"][..., left]
            if args:
                return (hidden, *args[1:]), changed
            return args, {**changed, "hidden_states": hidden}

        return before

    def _shorten(self, cut: Cut, hidden: Tensor) -> Tensor:
        """[1, L - N + K, D] of the hidden states in front of a cut [1, L, D]."""
        number, start, end = self._cuts.index(cut) + 1, self._start, self._start + self._count
        left, last = self._left[-1], self._bias[-1]
        if not cut.case.keep:
            self._left.append(torch.cat([left[:start], left[end:]]))
            self._bias.append(torch.cat([last[:, :start], last[:, end:]], 1))
            return torch.cat([hidden[:, :start], hidden[:, end:]], 1)
        signals = {name: self._signals[name] for name in cut.compressor.signals()}
        found = cut.compressor.reference(cut.case, hidden[:, start:end], **signals)
        tokens, index, into = found.tokens, found.kept_indices, found.assignment
        before, name = self._kept[-1], f"kept_indices_{number}"
        own = self._own.get(name)
        if own is not None and signals and not cut.compressor.method.merges:
            theirs = torch.isin(before, torch.from_numpy(own)).nonzero()[None, :, 1]
            (score,) = signals.values()
            if theirs.shape == index.shape and _equal_but_for_rounding(score, theirs, index):
                index, tokens = (
                    theirs,
                    hidden[:, start:end].gather(1, theirs[..., None].expand(-1, -1, hidden.shape[2])),
                )
        bias = self._bias[-1][:, start:end]
        if cut.size_bias and cut.compressor.method.merges:
            members = [bias[into == slot] for slot in range(cut.case.keep)]
            # A slot that nothing went into counts as the token whose place it has.
            behind = torch.stack([m.logsumexp(0) if len(m) else bias[0, place] for m, place in zip(members, index[0])])[
                None
            ]
        else:
            behind = bias.gather(1, index)
        self._kept.append(before.gather(1, index))
        self.picks[name] = self._kept[-1].numpy()
        self._left.append(torch.cat([left[:start], left[start:end][index[0]], left[end:]]))
        self._bias.append(torch.cat([last[:, :start], behind, last[:, end:]], 1))
        self._count = cut.case.keep
        return torch.cat([hidden[:, :start], tokens, hidden[:, end:]], 1)


def _equal_but_for_rounding(score: Tensor, one: Tensor, other: Tensor) -> bool:
    """Whether two choices of as many tokens have the same scores, in their order."""
    ours, theirs = (score.gather(1, index).sort().values for index in (one, other))
    return bool((ours - theirs).abs().max() <= _NEAR * score.abs().max())
