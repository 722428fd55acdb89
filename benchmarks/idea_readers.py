"""The built-in models in PyTorch, reading slots with one idea or several of how a slot should count.

A slot stands for tokens, its members. Answers are graded as greedy decoding would: one is right in full if each of its
words is the likeliest where those before are given. So one pass reads a question with its answer, and a query is known
to be of the prompt (prefill) or of the answer (decode).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokexport.exporter.zoo.decoding import MASKED, causal_mask
from tokexport.exporter.zoo.tiny_asr import text as asr_text
from tokexport.exporter.zoo.tiny_asr.model import TinyASR
from tokexport.exporter.zoo.tiny_vlm.evaluate import ASKED, QuestionSet
from tokexport.exporter.zoo.tiny_vlm.layers import DecoderLayer, rotate
from tokexport.exporter.zoo.tiny_vlm.model import TinyVLM
from tokexport.exporter.zoo.tiny_vlm.text import BOS, EOS, PAD
from tokexport.runtimes.words import Words
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent / "real"))
from words import differing

BATCH = 64


@dataclass(frozen=True)
class Way:
    """How slots count: by default each as one token, at the place of its own.

    Attributes:
        sizes: what each slot counts as: one; its members, where a token that was dropped is a member of the nearest
            slot; or N / K.
        median: a slot is at the median of its members' positions, and not at that of its own token.
        distance: in prefill, log(2 - mean cos(d theta)) is added to the logits of slots, where d is how far the query
            is, or how far the members are from their slot (the mean over them).
        unmerge: attention is to all N tokens, each equal to its slot, at its own position: from all of them, and the
            mean over a slot's members is its own (all), or from slots (keys). With prefill, slots are read so by the
            prompt alone, and by the words of an answer as `sizes` says.
        own: there a token is its slot plus what it differed from it in front of the first layer.
        spread: half the variance of the members' logits is added: of a key that varies alike in all directions
            (scalar), or with all covariances (full).
        constant: times the variance of the members, as a share of that of all tokens, is added to a slot's logits.
        average: where a method drops tokens, its slots are the means of their members.
    """

    sizes: Literal["one", "members", "even"] = "one"
    median: bool = False
    distance: Literal["", "query", "members"] = ""
    unmerge: Literal["", "all", "keys", "prefill"] = ""
    own: bool = False
    spread: Literal["", "scalar", "full"] = ""
    constant: float = 0.0
    average: bool = False


@dataclass(frozen=True)
class Slots:
    """What a compressor made of S inputs.

    Attributes:
        tokens: [S, K, D], as the language model reads them.
        kept: [S, K] int64, ascending.
        member: [S, N] int64, the slot of each token.
        every: [S, N, D], all tokens.
    """

    tokens: Tensor
    kept: Tensor
    member: Tensor
    every: Tensor

    def rows(self, at: Tensor) -> Slots:
        """Those of some inputs."""
        return Slots(self.tokens[at], self.kept[at], self.member[at], self.every[at])

    def mean(self, values: Tensor) -> Tensor:
        """Of the members of each slot: [S, N] or [S, H, N] -> [S, K] or [S, H, K]."""
        hot = F.one_hot(self.member, self.kept.shape[1]).to(values)
        sums = values @ hot if values.ndim == 3 else (values[:, None] @ hot)[:, 0]
        count = hot.sum(1)
        return sums / (count[:, None] if values.ndim == 3 else count)

    def count(self) -> Tensor:
        """Members [S, K] float32."""
        return F.one_hot(self.member, self.kept.shape[1]).sum(1).float()

    def bias(self, way: Way) -> Tensor:
        """What is added to the logits of every query, [S, K]."""
        bias = torch.zeros(self.kept.shape)
        if way.sizes == "members":
            bias = self.count().log().clamp(min=MASKED)
        elif way.sizes == "even":
            bias = bias + np.log(self.member.shape[1] / self.kept.shape[1])
        if way.constant:
            off = (self.every - self.every.mean(1, keepdim=True)).square().sum(2).mean(1, keepdim=True)
            bias = bias + way.constant * self.mean(self.apart().square().sum(2)) / off
        return bias

    def apart(self) -> Tensor:
        """How far each token is from its slot, [S, N, D]."""
        return self.every - self.tokens.gather(1, self.member[..., None].expand_as(self.every))

    def medians(self) -> Tensor:
        """The lower median of the members' places, [S, K] int64."""
        middle = (self.count().long() - 1) // 2
        rank = (F.one_hot(self.member, self.kept.shape[1]).cumsum(1) - 1).gather(2, self.member[..., None])[..., 0]
        hit = rank == middle.gather(1, self.member)
        place = torch.arange(self.member.shape[1]).expand_as(self.member)
        return torch.zeros_like(self.kept).scatter_add(1, self.member, place * hit)

    def sorted_by(self, place: Tensor) -> tuple[Slots, Tensor]:
        """The slots in the order of `place` [S, K], which is returned in that order."""
        order = place.argsort(dim=1, stable=True)
        rank = order.argsort(1)
        tokens = self.tokens.gather(1, order[..., None].expand_as(self.tokens))
        return Slots(tokens, self.kept.gather(1, order), rank.gather(1, self.member), self.every), place.gather(
            1, order
        )


def _variance(query: Tensor, spread: Tensor) -> Tensor:
    """Of logits, for keys that vary by `spread` [S, H, K], the mean square of a key: query [S, H, n, dh]."""
    width = query.shape[-1]
    return query.square().sum(-1)[..., None] * spread[:, :, None] / width**2


def _full_variance(query: Tensor, apart: Tensor, slots: Slots) -> Tensor:
    """Of logits, over the members' keys `apart` [S, H, N, dh]: [S, H, n, K]."""
    off = (query @ apart.transpose(2, 3)).square() / query.shape[-1]
    hot = F.one_hot(slots.member, slots.kept.shape[1]).float()
    return (off @ hot[:, None]) / hot.sum(1)[:, None, None]


class Answering:
    """tiny-vlm or tiny-video, asked questions; those about one input share a sequence, masked from each other."""

    def __init__(self, model: TinyVLM, drawn: QuestionSet, words: Words) -> None:
        self.model, offset = model, model.config.offset
        rows = [
            ids[offset : last + 1] + words.tokenize(question.answer) + [EOS]
            for ids, last, question in zip(drawn.ids.tolist(), drawn.last.tolist(), drawn.asked, strict=True)
        ]
        self.width = max(map(len, rows))
        assert drawn.scene.tolist() == [at // ASKED for at in range(len(rows))] and len(rows) % ASKED == 0
        self.ids = torch.tensor([row + [PAD] * (self.width - len(row)) for row in rows]).view(-1, ASKED * self.width)
        # Of each question the index of its last word, behind what is in front of the picture.
        self.last = torch.from_numpy(drawn.last - offset).view(-1, ASKED)

    @torch.inference_mode()
    def wrong(self, slots: Slots, way: Way) -> np.ndarray:
        """Of each question, whether its answer is wrong: float64 [Q]."""
        place = slots.kept
        if way.median:
            slots, place = slots.sorted_by(slots.medians())
        parts = torch.arange(len(place)).split(BATCH // ASKED)
        return torch.cat([self._asked(at, slots.rows(at), place[at], way) for at in parts]).double().numpy()

    def _asked(self, at: Tensor, slots: Slots, place: Tensor, way: Way) -> Tensor:
        decoder, config = self.model.decoder, self.model.config
        ids, front = self.ids[at], torch.full((len(at), config.offset), BOS)
        x = self.model.splice(torch.cat([front, ids], 1), slots.tokens)
        text = (config.offset + config.tokens + torch.arange(self.width)).repeat(ASKED).expand(len(at), -1)
        positions = torch.cat([torch.zeros_like(front), config.offset + place, text], 1)
        x = self._unmerged(x, positions, at, slots, way) if way.unmerge else self._read(x, positions, at, slots, way)
        said = decoder.logits(x[:, -ids.shape[1] :]).argmax(-1).unflatten(1, (ASKED, -1))[..., :-1]
        wanted = ids.unflatten(1, (ASKED, -1))[..., 1:]
        graded = (torch.arange(self.width - 1) >= self.last[at][..., None]) & (wanted != PAD)
        return ((said != wanted) & graded).any(2).flatten()

    def _seen(self, length: int) -> Tensor:
        """Additive mask [1, 1, n, n]: what is earlier, but for the other questions."""
        mask, start = causal_mask(length).clone(), length - ASKED * self.width
        question = torch.arange(ASKED * self.width) // self.width
        mask[..., start:, start:] += torch.where(question[:, None] == question, 0.0, MASKED)
        return mask

    def _read(self, x: Tensor, positions: Tensor, number: Tensor, slots: Slots, way: Way) -> Tensor:
        decoder, offset, keep, length = self.model.decoder, self.model.config.offset, slots.kept.shape[1], x.shape[1]
        at = slice(offset, offset + keep)
        bias = F.pad(slots.bias(way), (offset, length - offset - keep))
        mask = bias[:, None, None] + self._seen(length)
        if way.distance:
            prompt = torch.arange(self.width) <= self.last[number][..., None]
            prefill = F.pad(prompt.flatten(1), (offset + keep, 0), value=True)
            mask[..., at] += (self._distance(positions, slots, way) * prefill[..., None])[:, None]
        cos, sin = decoder.rotary(positions)
        for layer in decoder.blocks:
            query, key, value = layer.qkv(x, cos, sin)
            own = mask
            if way.spread:
                own = mask.repeat(1, query.shape[1], 1, 1)
                own[..., at] += self._spread(layer, x[:, at], query, positions[:, at], slots, way) / 2
            x = layer.attend(x, query, key, value, own)
        return x

    def _distance(self, positions: Tensor, slots: Slots, way: Way) -> Tensor:
        """[S, n or 1, K]."""
        decoder, offset, keep = self.model.decoder, self.model.config.offset, slots.kept.shape[1]
        here = positions[:, offset : offset + keep]
        if way.distance == "query":
            return (2 - decoder.cos[(positions[:, :, None] - here[:, None]).abs()].mean(-1)).log()
        away = offset + torch.arange(slots.member.shape[1]) - here.gather(1, slots.member)
        return (2 - slots.mean(decoder.cos[away.abs()].mean(-1))).log()[:, None]

    def _spread(
        self, layer: DecoderLayer, x: Tensor, query: Tensor, positions: Tensor, slots: Slots, way: Way
    ) -> Tensor:
        """The variance [S, H, n, K] of the members' logits, if layers added the same to the members of a slot."""
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        at = slots.member[..., None]
        apart = slots.apart() * scale.gather(1, at) * layer.norm1.weight
        key = layer.k_proj(apart).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        if way.spread == "scalar":
            return _variance(query, slots.mean(key.square().sum(-1)))
        return _full_variance(query, rotate(key, *self.model.decoder.rotary(positions.gather(1, slots.member))), slots)

    def _unmerged(self, x: Tensor, positions: Tensor, number: Tensor, slots: Slots, way: Way) -> Tensor:
        decoder, offset, length = self.model.decoder, self.model.config.offset, x.shape[1]
        front, n, text = offset + slots.kept.shape[1], slots.member.shape[1], self.ids.shape[1]
        behind = torch.arange(front, length).expand(len(x), -1)
        row = torch.cat([torch.arange(offset).expand(len(x), -1), offset + slots.member, behind], 1)
        hot = F.one_hot(row, length).float()
        merge = (hot / hot.sum(1, keepdim=True)).transpose(1, 2)[:, None]
        apart = F.pad(slots.apart(), (0, 0, offset, text)) if way.own else 0
        places = torch.cat([torch.arange(offset + n), positions[0, front:]])
        cos, sin = decoder.rotary(places[None])
        mask = self._seen(offset + n + text)
        if way.unmerge != "all":
            # A slot sees the members of all slots up to its own place.
            rows = torch.cat([positions[:, :front], torch.arange(offset + n, offset + n + text).expand(len(x), -1)], 1)
            mask = mask[0, 0][rows][:, None]
        decoding = torch.arange(self.width) > self.last[number][..., None]
        decoding = F.pad(decoding.flatten(1), (front, 0))[:, None, :, None]
        merged = F.pad(slots.bias(way), (offset, text))[:, None, None] + self._seen(length)
        for layer in decoder.blocks:
            query, key, value = layer.qkv(x.gather(1, row[..., None].expand(-1, -1, x.shape[2])) + apart, cos, sin)
            if way.unmerge != "all":
                query, *slot = layer.qkv(x, *decoder.rotary(positions))
            read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            if way.unmerge == "prefill":
                read = torch.where(decoding, F.scaled_dot_product_attention(query, *slot, attn_mask=merged), read)
            x = layer.finish(x, merge @ read if way.unmerge == "all" else read)
        return x


class Listening:
    """tiny-asr, whose cross-attention reads slots without positions: there is neither a median nor a distance."""

    def __init__(self, model: TinyASR, said: Sequence[str]) -> None:
        self.model, self.said = model, [text.split() for text in said]

    @torch.inference_mode()
    def wrong(self, slots: Slots, way: Way) -> np.ndarray:
        """Of each utterance, the words that are wrong: float64 [Q]."""
        found: list[int] = []
        for start in range(0, len(self.said), BATCH):
            part = slots.rows(torch.arange(start, min(start + BATCH, len(self.said))))
            ids = self._heard(part, part.bias(way)[:, None, None], way)
            said = [asr_text.detokenize(row).split() for row in ids.tolist()]
            found += [differing(one, right) for one, right in zip(said, self.said[start : start + BATCH], strict=True)]
        return np.array(found, float)

    def _heard(self, slots: Slots, bias: Tensor, way: Way) -> Tensor:
        decoder, config = self.model.decoder, self.model.config
        ids = torch.full((len(slots.kept), 1), asr_text.BOS)
        tokens = slots.tokens
        if way.unmerge:
            # No token has a position, so a slot's n equal members are e^log(n) of it; `own` makes them differ.
            tokens, bias = (
                (slots.every, torch.zeros(1, 1, 1, 1)) if way.own else (tokens, slots.count().log()[:, None, None])
            )
        done = torch.zeros(len(ids), dtype=torch.bool)
        for _ in range(config.max_new):
            x = decoder.embedding(ids) + decoder.positions[: ids.shape[1]]
            for layer in decoder.blocks:
                x = x + layer.attention(layer.norm1(x), *layer.keys(x), causal_mask(ids.shape[1]))
                cross, y = layer.cross_attention, layer.norm2(x)
                key, value = cross.keys(tokens)
                added = bias + self._spread(cross, y, slots, way) / 2 if way.spread else bias
                x = x + cross(y, key, value, added)
                x = x + layer.fc2(F.gelu(layer.fc1(layer.norm3(x))))
            word = torch.where(done, asr_text.PAD, decoder.logits(x[:, -1]).argmax(-1))
            ids = torch.cat([ids, word[:, None]], 1)
            done = done | (word == asr_text.EOS)
            if bool(done.all()):
                break
        return ids

    def _spread(self, cross: Any, y: Tensor, slots: Slots, way: Way) -> Tensor:
        query, apart = cross.split(cross.q_proj(y)), cross.split(cross.k_proj(slots.apart()))
        if way.spread == "scalar":
            return _variance(query, slots.mean(apart.square().sum(-1)))
        return _full_variance(query, apart, slots)
