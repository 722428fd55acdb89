"""Compressors between the layers of a model of transformers, by hooks around the layers themselves.

Nothing here knows the stages of our graphs: the model runs as it is, with one sequence and one mask. Behind a cut every
layer is given the rows and columns that are left. What a compressor reads are the hidden states in front of its layer,
and what words pay the tokens in the eager attention of the layer before; see `stages.SIGNALS`. Of several images it
reads one after the other.
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
        starts: where the tokens of each of I images begin in the sequence.
        kept: [1, I K] int64, which of all tokens of its image each is.
        bias: [1, L] float32, added to the mask of every layer up to the first cut.
        embeds: [1, L, D], what enters the language model.
        own: what the graph kept behind each cut, ``kept_indices_<j>``: taken where scores are equal but for rounding.

    Attributes:
        picks: ``kept_indices_<j>`` [1, I K_j] int64 -> which of all tokens are left behind cut j.
    """

    def __init__(
        self,
        language: Any,
        cuts: Sequence[Cut],
        starts: Sequence[int],
        kept: Tensor,
        bias: Tensor,
        embeds: Tensor,
        own: Mapping[str, np.ndarray],
    ) -> None:
        self._language, self._cuts, self._own = language, cuts, own
        self._starts, self._count = [*starts], kept.shape[1] // len(starts)
        self.picks: dict[str, np.ndarray] = {}
        self._kept = [kept]
        # Places in the sequence that are left behind each cut, and what is added to the mask there.
        self._left: list[Tensor] = [torch.arange(bias.shape[1])]
        self._bias: list[Tensor] = [bias]
        self._signals: list[dict[str, Tensor]] = []
        self._raters = []
        for span in self._spans():
            likeness = (embeds[0, span] @ embeds[0, self._words(span)].T).softmax(1).mean(0)
            self._raters.append(likeness > likeness.mean() * (1 - _EVEN))

    def _spans(self) -> list[slice]:
        """Where the tokens of each image stand now."""
        return [slice(start, start + self._count) for start in self._starts]

    def _words(self, span: slice) -> Tensor:
        """Where the words behind an image stand now."""
        places = torch.arange(span.stop, self._bias[-1].shape[1])
        of_others = [(places >= other.start) & (places < other.stop) for other in self._spans()]
        return places[~torch.stack(of_others).any(0)]

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
            self._signals = []
            for span, raters in zip(self._spans(), self._raters, strict=True):
                paid = weights[..., span].float()
                words = paid[:, :, self._words(span)]
                self._signals.append(
                    {
                        "cls_attention": paid[:, :, -1].mean(1),
                        "words_attention": words.mean((1, 2)),
                        "raters_attention": words[:, :, raters].mean((1, 2)),
                        "peak_attention": words.amax((1, 2)),
                    }
                )

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
        """[1, L - I (N - K), D] of the hidden states in front of a cut [1, L, D]."""
        left, last, name = self._left[-1], self._bias[-1], f"kept_indices_{self._cuts.index(cut) + 1}"
        pieces: list[list[Tensor]] = [[], [], []]
        kept, at, starts = [], 0, []
        for number, span in enumerate(self._spans()):
            starts.append(sum(one.shape[1] for one in pieces[0]) + span.start - at)
            chosen = self._chosen(cut, number, hidden[:, span], name) if cut.case.keep else None
            for piece, whole in zip(pieces, (hidden, last, left[None]), strict=True):
                piece.append(whole[:, at : span.start])
            at = span.stop
            if chosen:
                tokens, index, bias = chosen
                for piece, one in zip(pieces, (tokens, bias, left[None, span].gather(1, index)), strict=True):
                    piece.append(one)
                kept.append(self._kept[-1].chunk(len(self._starts), 1)[number].gather(1, index))
        found, bias, left = (
            torch.cat([*piece, whole[:, at:]], 1)
            for piece, whole in zip(pieces, (hidden, last, left[None]), strict=True)
        )
        if kept:
            self._kept.append(torch.cat(kept, 1))
            self.picks[name] = self._kept[-1].numpy()
        self._left.append(left[0])
        self._bias.append(bias)
        self._starts, self._count = starts, cut.case.keep
        return found

    def _chosen(self, cut: Cut, number: int, hidden: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Of the tokens [1, N, D] of an image what is left: [1, K, D], which of them [1, K], and their bias [1, K]."""
        signals = {one: self._signals[number][one] for one in cut.compressor.signals()}
        found = cut.compressor.reference(cut.case, hidden, **signals)
        tokens, index, into = found.tokens, found.kept_indices, found.assignment
        before, own = self._kept[-1].chunk(len(self._starts), 1)[number], self._own.get(name)
        if own is not None and signals and not cut.compressor.method.merges:
            mine = torch.from_numpy(own).chunk(len(self._starts), 1)[number]
            theirs = torch.isin(before, mine).nonzero()[None, :, 1]
            (score,) = signals.values()
            if theirs.shape == index.shape and _equal_but_for_rounding(score, theirs, index):
                index, tokens = theirs, hidden.gather(1, theirs[..., None].expand(-1, -1, hidden.shape[2]))
        bias = self._bias[-1][:, self._spans()[number]]
        if not (cut.size_bias and cut.compressor.method.merges):
            return tokens, index, bias.gather(1, index)
        members = [bias[into == slot] for slot in range(cut.case.keep)]
        # A slot that nothing went into counts as the token whose place it has.
        merged = [m.logsumexp(0) if len(m) else bias[0, place] for m, place in zip(members, index[0])]
        return tokens, index, torch.stack(merged)[None]


def _equal_but_for_rounding(score: Tensor, one: Tensor, other: Tensor) -> bool:
    """Whether two choices of as many tokens have the same scores, in their order."""
    ours, theirs = (score.gather(1, index).sort().values for index in (one, other))
    return bool((ours - theirs).abs().max() <= _NEAR * score.abs().max())
