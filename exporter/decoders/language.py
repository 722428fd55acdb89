"""A language model of transformers as the graphs embed, prefill and decode; see `runtimes.bundle.manifest`.

The model's own forward does the rest (rotary tables, norms, softcaps), so nothing of a family is written again here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sources.source import GraphSource
from ..zoo.decoding import MASKED, causal_mask
from ..zoo.members import assignment_example
from .by_position import by_position, rotating_in
from .embeddings import Embed, WithToken, WithZero
from .positions import Positions as Positions
from .positions import axes
from .several import Places
from .spans import Span, Spans, behind, passed, shorter
from .stages import Compress, Cut, Watch, parts, raters, shortened
from .states import Carried, Shapes, masks


@dataclass(frozen=True)
class LanguageDecoder:
    """A language model, its sizes, and how its graphs are made.

    Attributes:
        model: of transformers, without its head and with our attention (`attention.NAME`), in eval mode.
        head: [B, D] -> [B, V].
        layers: of the model.
        heads: G, of keys and values.
        head_dim: d.
        dim: D.
        positions: of the image's N tokens.
        offset: ids before the image.
        prompt_length: P.
        answer_length: at most so many tokens are generated.
        pad: fills a prompt up to P.
        image_sees: what a token of the image attends to besides the words before it: the tokens ``before`` it, the
            whole ``image``, or the whole ``prompt``, whose words then see it whole too.
        states: what the layers carry that do not attend; see `states.prepare`, which has prepared the model.
        further: n, where tokens are [B, K, (1 + n) D], and all but the first D channels are added behind the first n
            layers. `model` then adds them in `_deepstack_process`, [B, L, D].
        as_zero: an id that the model reads as id 0: that of the place of a sound, where an answer says it.
        learned: an id that stands in a prompt for a token that is learned, [D], and no row of the embedding; with it.
        images: I, how many the graphs have room for. With several, K is of each, tokens, kept_indices and token_bias
            are of all of them, one after the other, and every graph takes image_starts [B, I] (see `several`); `offset`
            is then of no meaning.
        cuts: the compressors between its layers, upstream first; of several images each is compressed by itself. Among
            the n layers of `further` they select. The last may leave no token.
        by_position: whether prefill takes assignment [B, N], and reads slots at the positions of their members; only
            where I is 1, and without cuts.
    """

    model: nn.Module
    head: nn.Module
    layers: int
    heads: int
    head_dim: int
    dim: int
    positions: Positions
    offset: int
    prompt_length: int
    answer_length: int
    pad: int
    image_sees: Literal["before", "image", "prompt"] = "before"
    states: Shapes = field(default_factory=dict)
    further: int = 0
    as_zero: int | None = None
    learned: tuple[int, Tensor] | None = None
    images: int = 1
    cuts: tuple[Cut, ...] = ()
    by_position: bool = False

    @property
    def embedding(self) -> nn.Module:
        """Ids int64 -> words."""
        own: nn.Module = self.model.get_input_embeddings()  # type: ignore[operator]
        return own if self.as_zero is None else WithZero(own, self.as_zero)

    @property
    def prompted(self) -> nn.Module:
        """The same for a prompt."""
        return WithToken(self.embedding, *self.learned) if self.learned else self.embedding

    @property
    def attending(self) -> list[int]:
        """The layers that have keys and values."""
        return [layer for layer in range(self.layers) if layer not in self.states]

    @property
    def caches(self) -> list[str]:
        """Names of keys and values."""
        return [f"{kind}_{layer}" for layer in self.attending for kind in ("key", "value")]

    @property
    def carried(self) -> dict[str, tuple[int, ...]]:
        """Name of each state -> its shape without B."""
        return {f"{kind}_{layer}": shape for layer, kinds in self.states.items() for kind, shape in kinds.items()}

    @property
    def width(self) -> int:
        """Channels of a token."""
        return (1 + self.further) * self.dim

    def mask(self, keep: int, last_index: Tensor, places: Places | None = None) -> Tensor:
        """Of prefill for K = `keep`, added to the logits [1 or B, 1, L, L]; a prompt [B] ends at last_index."""
        mask, image = causal_mask(self.prompt_length + self.images * keep), slice(self.offset, self.offset + keep)
        if self.image_sees == "image":
            if places:
                return torch.where(places.same_image(), 0.0, mask)
            mask[..., image, image] = 0
        if self.image_sees == "prompt":
            return torch.where(torch.arange(mask.shape[-1]) <= last_index[:, None, None, None], 0.0, mask)
        return mask

    def spread(self, token_bias: Tensor, length: int, places: Places | None) -> Tensor:
        """The bias of the tokens, and 0 for words, of each place in a sequence of L = `length`: [B, L]."""
        if not token_bias.shape[1]:
            return token_bias.new_zeros(len(token_bias), length)
        if places:
            return torch.where(places.inside, token_bias.gather(1, places.tokens()), 0.0)
        return F.pad(token_bias, (self.offset, length - token_bias.shape[1] - self.offset))

    def rotated(self, kept: Tensor, places: Places | None) -> Tensor:
        """[R, B, L] of prefill, for the kept tokens [B, I K] of images."""
        if places:
            return places.positions(self.positions.rows[:, kept], self.positions.advance)
        return self.positions.with_text(kept, self.offset, self.prompt_length)

    def span(self, tokens: int, length: int, image_starts: Tensor | None) -> Span:
        """Where the tokens of all images, I K = `tokens` together, stand in a sequence of L = `length`."""
        if image_starts is None:
            return Span(self.offset, tokens)
        return Spans(self.offset, tokens // self.images, image_starts, length)

    def capacity(self, keep: int) -> int:
        """Of the caches of layers that see K = `keep` tokens."""
        return self.prompt_length + self.images * keep + self.answer_length

    def counts(self, keep: int) -> list[int]:
        """How many tokens the layers up to the first cut see, those up to the next, ..., of K = `keep`."""
        return [keep, *(cut.case.keep for cut in self.cuts)]

    def layers_of(self, stage: int) -> range:
        """Of the part up to the cut of this number, from 0."""
        ends = [0, *(cut.layer for cut in self.cuts), self.layers]
        return range(ends[stage], ends[stage + 1])

    def graphs(self, keep: int, prompt: Sequence[int], word: int, starts: Sequence[int] = ()) -> list[GraphSource]:
        """embed, prefill and decode for K = `keep`.

        Args:
            keep: K.
            prompt: an example, without the places of images.
            word: that may follow it.
            starts: where each of I images begins in the sequence of the prompt, with several.
        """
        names, states, every = self.caches, self.carried, self.images * keep
        padding = [self.pad] * (self.prompt_length - len(prompt))
        bias, last = torch.zeros(1, every), len(prompt) - 1 + every
        tokens = self.positions.rows.shape[1]
        cuts = [number for number, cut in enumerate(self.cuts, 1) if cut.case.keep]
        slots = {
            layer: self.capacity(count)
            for stage, count in enumerate(self.counts(keep))
            for layer in self.layers_of(stage)
        }

        def places() -> dict[str, Tensor]:
            return {"image_starts": torch.tensor([[*starts]])} if self.images > 1 else {}

        return [
            GraphSource(
                role="embed",
                module=Embed(self.prompted, self.offset, keep).eval(),
                inputs={
                    "input_ids": torch.tensor([[*prompt, *padding]]),
                    "tokens": torch.zeros(1, every, self.width),
                    **places(),
                },
                outputs=("inputs_embeds",),
            ),
            GraphSource(
                role="prefill",
                module=Prefill(self).eval(),
                inputs={
                    "inputs_embeds": torch.zeros(1, self.prompt_length + every, self.width),
                    "kept_indices": torch.linspace(0, tokens - 1, keep).long().repeat(self.images)[None],
                    "token_bias": bias,
                    "last_index": torch.tensor([last]),
                    **places(),
                    **(assignment_example(tokens, keep) if self.by_position else {}),
                },
                outputs=(
                    "logits",
                    *(f"present_{name}" for name in names),
                    *(f"state_{name}" for name in states),
                    *(f"{name}_{cut}" for cut in cuts for name in ("kept_indices", "token_bias")),
                ),
            ),
            GraphSource(
                role="decode",
                module=Decode(self, keep).eval(),
                inputs={
                    "input_ids": torch.tensor([[word]]),
                    "write_index": torch.tensor([last + 1]),
                    "token_bias": bias,
                    **places(),
                    **{f"token_bias_{cut}": torch.zeros(1, self.images * self.counts(keep)[cut]) for cut in cuts},
                    # A tensor for each: torch.export takes one that is given twice for one input.
                    **{
                        f"past_{name}": torch.zeros(1, self.heads, slots[int(name.split("_")[1])], self.head_dim)
                        for name in names
                    },
                    **{f"state_{name}": torch.zeros(1, *shape) for name, shape in states.items()},
                },
                outputs=("logits", *(f"new_{name}" for name in names), *(f"new_state_{name}" for name in states)),
            ),
        ]


class Prefill(nn.Module):
    """inputs_embeds [B, L, D], kept_indices [B, I K] int64, token_bias [B, I K] float32, last_index [B] int64, of
    several images image_starts [B, I] int64, `by_position` assignment [B, N] int64 -> logits [B, V] at last_index, then
    present_key_i, present_value_i [B, G, L + spare, d] of every layer that attends, state_<kind>_i of the others, and
    of each cut that leaves any kept_indices_<j> and token_bias_<j> [B, I K_j] of them; L = P + I K, for any K without
    cuts.

    The caches are zero after L, which is P + I K_j behind a cut.
    """

    def __init__(self, decoder: LanguageDecoder) -> None:
        super().__init__()
        self.parts, self.head, self.sizes = nn.ModuleList(parts(decoder.model, decoder.cuts)), decoder.head, decoder
        self.compress = nn.ModuleList(Compress(cut, j) for j, cut in enumerate(decoder.cuts, 1) if cut.case.keep)
        self.rotating = rotating_in(decoder) if decoder.by_position else frozenset[int]()

    def forward(
        self,
        inputs_embeds: Tensor,
        kept_indices: Tensor,
        token_bias: Tensor,
        last_index: Tensor,
        told: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See the class; `told` is what only some decoders take."""
        sizes, cache = self.sizes, Carried(last_index=last_index)
        image_starts, assignment = (None, told) if sizes.by_position else (told, None)
        hidden, left = inputs_embeds, []
        span = sizes.span(kept_indices.shape[1], hidden.shape[1], image_starts)
        rate = raters(sizes.cuts, hidden[..., : sizes.dim], span, last_index)
        for stage, part in enumerate(self.parts):
            hidden, *further = hidden.split(sizes.dim, -1)
            named: dict[str, Any] = {"deepstack_visual_embeds": further} if further else {}
            length, keep = hidden.shape[1], kept_indices.shape[1] // sizes.images
            span = sizes.span(kept_indices.shape[1], length, image_starts)
            places = None if image_starts is None else Places.of(image_starts, keep, length)
            real = (torch.arange(length) <= last_index[:, None]).to(inputs_embeds.dtype)
            bias = sizes.spread(token_bias, length, places)
            if stage < len(self.compress):
                cut = sizes.cuts[stage]
                read = cut.compressor.signals()
                named["watch"] = watch = Watch(cut.layer - 1, read, span, last_index, rate)
            if assignment is None:
                mask = sizes.mask(keep, last_index, places) + bias[:, None, None]
            else:
                mask, named["members"] = by_position(
                    sizes, self.rotating, kept_indices, assignment, token_bias, last_index
                )
            hidden = part(
                inputs_embeds=hidden,
                attention_mask=masks(sizes.model.config, mask, real, bias),
                position_ids=axes(sizes.rotated(kept_indices, places)),
                past_key_values=cache,
                use_cache=True,
                **named,
            ).last_hidden_state
            if rest := further[len(part.layers) :]:  # type: ignore[arg-type]
                hidden = torch.cat([hidden, *rest], -1)
            if stage < len(self.compress):
                compress: Any = self.compress[stage]
                hidden, kept_indices, token_bias = shortened(compress, hidden, kept_indices, token_bias, watch)
                left += [kept_indices, token_bias]
            elif stage < len(sizes.cuts):
                hidden, kept_indices, token_bias = span.replaced(hidden, None), kept_indices[:, :0], token_bias[:, :0]
            if stage < len(sizes.cuts):
                last_index, image_starts = span.behind(last_index, sizes.cuts[stage].case.keep)
            cache.last_index = last_index
        last = hidden.gather(1, last_index[:, None, None].expand(-1, -1, hidden.shape[2]))
        present = [F.pad(part, (0, 0, 0, sizes.answer_length)) for part in cache.in_order()]
        return self.head(last[:, 0]), *present, *(cache.made[name] for name in sizes.carried), *left


class Decode(nn.Module):
    """input_ids [B, 1] int64, write_index [B] int64, token_bias [B, I K] float32, of several images image_starts [B, I]
    int64, of each cut that leaves any token_bias_<j> [B, K_j] float32, of every layer that attends past_key_i,
    past_value_i [B, G, capacity_i, d], state_<kind>_i of the others -> logits [B, V], then new_key_i, new_value_i
    [B, G, 1, d], and new_state_<kind>_i in the place of what was given.

    Slots of the past from write_index on are not seen; behind a cut that is fewer by the tokens that it removed.
    """

    def __init__(self, decoder: LanguageDecoder, keep: int) -> None:
        super().__init__()
        self.parts, self.head, self.sizes = nn.ModuleList(parts(decoder.model, decoder.cuts)), decoder.head, decoder
        self.embedding, self.keep = decoder.embedding, keep

    def forward(
        self, input_ids: Tensor, write_index: Tensor, token_bias: Tensor, *further: Tensor
    ) -> tuple[Tensor, ...]:
        """See the class."""
        sizes, index = self.sizes, write_index[:, None]
        starts, caches = (further[0], further[1:]) if sizes.images > 1 else (None, further)
        told = sum(cut.case.keep > 0 for cut in sizes.cuts)
        biases = [token_bias, *caches[:told], *[token_bias[:, :0]] * (len(sizes.cuts) - told)]
        caches = caches[told:]
        caches, states = caches[: len(sizes.caches)], dict(zip(sizes.carried, caches[len(sizes.caches) :], strict=True))
        cache, position = Carried(states), index + (sizes.positions.advance - self.keep)
        if starts is not None:
            position = index + passed(starts, index) * (sizes.positions.advance - self.keep)
        position = position.expand(len(sizes.positions.rows), -1, -1)
        past = dict(zip(sizes.attending, zip(caches[::2], caches[1::2], strict=True), strict=True))
        hidden = self.embedding(input_ids)
        for part, bias, count in zip(self.parts, biases, sizes.counts(self.keep), strict=True):
            length = sizes.capacity(count)
            places = None if starts is None else Places.of(behind(starts, self.keep - count), count, length)
            seen = torch.where(torch.arange(length)[None] < shorter(index, self.keep - count, starts), 0.0, MASKED)
            mask = seen + sizes.spread(bias, length, places)
            hidden = part(
                inputs_embeds=hidden,
                attention_mask=masks(sizes.model.config, mask[:, None, None], None),
                position_ids=axes(position),
                past_key_values=cache,
                use_cache=True,
                past=past,
            ).last_hidden_state
        return self.head(hidden[:, 0]), *cache.in_order(), *(cache.made[name] for name in sizes.carried)
