"""A multimodal model as transformers runs it, fed the tokens of a compressor: what its graphs are proved by."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..decoders.language import LanguageDecoder
from ..decoders.positions import axes
from ..decoders.stages import Cut
from ..sources.source import Answered
from .answering import Marks
from .cut_reference import Cuts
from .greedy_reference import Hook, greedy
from .members_reference import Whole


class _Absent(nn.Identity):
    """Stands for an encoder that is not called; some models ask it where their inputs shall go."""

    device = torch.device("cpu")


@contextlib.contextmanager
def repeating(language: Any, times: Callable[[int], Tensor]) -> Iterator[None]:
    """Inside, the linear attentions of a language model write each token of a prompt as often as it counts.

    They do it one update after the other, in transformers' own code, and give what the last one says.

    Args:
        language: of transformers; nothing is done where none of its layers is one.
        times: [L] int64, at least 1, of a layer that begins to read a prompt.
    """
    linear = {layer.linear_attn: at for at, layer in enumerate(language.layers) if hasattr(layer, "linear_attn")}
    if not linear:
        yield
        return
    code: Any = sys.modules[type(next(iter(linear))).__module__]
    own, running = code.torch_chunk_gated_delta_rule, [0]

    def rule(*parts: Tensor, g: Tensor, beta: Tensor, **named: Any) -> tuple[Tensor, Any]:
        often = times(running[0])
        place, last = torch.arange(len(often)).repeat_interleave(often), often.cumsum(0) - 1
        out, state = own(*(part[:, place] for part in parts), g=g[:, place], beta=beta[:, place], **named)
        return out[:, last], state

    def begins(module: nn.Module, _: Any) -> None:
        running[0] = linear[module]

    handles = [module.register_forward_pre_hook(begins) for module in linear]
    code.torch_chunk_gated_delta_rule = rule
    try:
        yield
    finally:
        code.torch_chunk_gated_delta_rule = own
        for handle in handles:
            handle.remove()


class Reference:
    """A model of transformers with its own attention and its own caches.

    Args:
        whole: made by its class, without weights, and with the eager attention: of all attentions of transformers the
            one that adds a mask as it is given.
        language: the language model inside of it.
        decoder: loaded; both share their weights with it.
    """

    def __init__(self, whole: Any, language: str, decoder: LanguageDecoder) -> None:
        self.model, self._decoder = whole.eval(), decoder
        self._language = whole.get_submodule(language)
        self._language.load_state_dict(decoder.model.state_dict(), assign=True)
        whole.get_output_embeddings().weight = decoder.head.weight
        # `generate` takes the device of the first parameter for its own, and the encoder has no weights here.
        for name, part in list(whole.model.named_children()):
            if any(parameter.is_meta for parameter in part.parameters()):
                setattr(whole.model, name, _Absent())
        for name, _ in list(whole.model.named_parameters(recurse=False)):
            setattr(whole.model, name, None)
        self._take_embeddings()

    def _take_embeddings(self) -> None:
        """Some classes leave `inputs_embeds` to their `**kwargs`, where `generate` does not look for them."""
        prepare = self.model.prepare_inputs_for_generation

        def prepared(input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any) -> Any:
            return prepare(input_ids, inputs_embeds=inputs_embeds, **kwargs)

        self.model.prepare_inputs_for_generation = prepared

    def _kinds(self, image: Tensor) -> dict[str, Tensor]:
        """What sees tokens behind it, for models that ask: that of an image is 1, or of the whole prompt 0."""
        if self._decoder.image_sees == "before":
            return {}
        sees = self._decoder.image_sees == "image"
        return {"token_type_ids": image.long() if sees else torch.zeros_like(image, dtype=torch.long)}

    def _positions(self, words: Sequence[Sequence[int]], kept: Tensor) -> Tensor:
        """[R, B, L], counted from word to word and from image to image."""
        own, at, found = self._decoder.positions, 0, []
        for number, ids in enumerate(words):
            found.append((at + torch.arange(len(ids))).expand(len(own.rows), len(kept), -1))
            at += len(ids)
            if number + 1 < len(words):
                found.append(own.rows[:, kept.chunk(len(words) - 1, 1)[number]] + at)
                at += own.advance
        return torch.cat(found, -1)

    def _by_position(
        self, encoded: Mapping[str, np.ndarray], words: Sequence[Sequence[int]], kept: Tensor, weights: Tensor
    ) -> Whole | None:
        """What the slots of a prompt stand for, where the decoder reads that."""
        if not self._decoder.by_position:
            return None
        into = torch.from_numpy(encoded["assignment"].astype(np.int64))
        everything = self._positions(words, torch.arange(into.shape[1])[None])
        span = len(words[0]), sum(map(len, words))
        return Whole(self._language, span, kept, into, weights, everything, self._decoder.image_sees)

    def answer(
        self,
        encoded: Mapping[str, np.ndarray],
        token_bias: np.ndarray,
        prompt: Sequence[Sequence[int]],
        marks: Marks,
        limit: int,
        cuts: Sequence[Cut] = (),
    ) -> Answered:
        """What greedy `generate` says.

        Args:
            encoded: of I images, tokens [1, I K, D] and kept_indices [1, I K], by position assignment [1, N]; see also
                `Cuts.own`.
            token_bias: [1, I K], added to the mask of every attention; its e^x, whole numbers, is how often linear
                attentions count a token.
            prompt: the ids before the first image, those between it and the next, ..., and those behind the last.
            marks: of the model.
            limit: at most so many ids.
            cuts: the compressors between the layers of the language model.
        """
        kept = torch.from_numpy(encoded["kept_indices"].astype(np.int64))
        embedding = self._decoder.prompted
        words = [embedding(torch.tensor([[*ids]], dtype=torch.long)) for ids in prompt]
        whole = torch.from_numpy(encoded["tokens"].astype(np.float32))
        tokens, *further = whole.split(words[0].shape[2], -1)
        embeds = _woven(words, tokens)
        positions = self._positions(prompt, kept)
        nothing = [torch.zeros(1, len(ids)) for ids in prompt]
        image = _woven(nothing, torch.ones(1, kept.shape[1])) > 0
        weights = torch.from_numpy(np.asarray(token_bias, np.float32))
        bias = _woven(nothing, weights)
        whole_prompt = self._by_position(encoded, prompt, kept, weights)
        each = kept.shape[1] // (len(prompt) - 1)
        starts = [sum(map(len, prompt[: number + 1])) + number * each for number in range(len(prompt) - 1)]
        cut = Cuts(self._language, cuts, starts, kept, bias, embeds, encoded)

        def biased(
            attention: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            mask, own = named["attention_mask"], cut.bias(attention.layer_idx)  # type: ignore[arg-type]
            assert mask is not None, "eager attention has a mask"
            if whole_prompt and mask.shape[2] > 1:
                # It has the weights of the members already.
                return args, named
            added = F.pad(own, (0, mask.shape[-1] - own.shape[-1]))[:, None, None]
            return args, {**named, "attention_mask": mask + added}

        def deepened(
            _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if named["inputs_embeds"].shape[1] == 1:
                return args, named
            return args, {**named, "visual_pos_masks": image, "deepstack_visual_embeds": [x[0] for x in further]}

        attentions = [layer.self_attn for layer in self._language.layers if hasattr(layer, "self_attn")]
        hooks: list[tuple[nn.Module, Hook]] = [(attention, biased) for attention in attentions]
        if further:
            hooks.append((self._language, deepened))
        inputs = {
            "inputs_embeds": embeds,
            "attention_mask": torch.ones(embeds.shape[:2], dtype=torch.long),
            "position_ids": axes(positions),
            **self._kinds(image),
        }
        by_position = whole_prompt.hooked() if whole_prompt else contextlib.nullcontext()
        with repeating(self._language, cut.times), cut.hooked(), by_position:
            answered = greedy(self.model.generate, hooks, marks, limit, inputs=inputs)
        return replace(answered, picks=cut.picks)


def parted(prompt: Sequence[int], placeholder: int) -> list[list[int]]:
    """The ids before the first placeholder, between it and the next, ..., and behind the last."""
    parts: list[list[int]] = [[]]
    for i in prompt:
        if i == placeholder:
            parts.append([])
        else:
            parts[-1].append(i)
    return parts


def _woven(words: Sequence[Tensor], images: Tensor) -> Tensor:
    """[1, L, ...] of parts of words [1, n, ...], with the images between them, [1, I K, ...] together."""
    parts = [part for pair in zip(words, images.chunk(len(words) - 1, 1)) for part in pair]
    return torch.cat([*parts, words[-1]], 1)
