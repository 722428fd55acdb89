"""Duplicates out first: how many tokens that frees on tiny-vlm's pictures, and whether it is exact (docs/ideas.md).

    OMP_NUM_THREADS=1 python benchmarks/same_tokens.py          a minute of one core

A patch, or a token, that is within a distance of an earlier one joins it. A static graph has a bucket of K slots for
what is left; a slot that stays empty is padding, with a bias of -1e4 in every attention.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from idea_readers import Answering, Slots, Way
from report import save
from tokexport.exporter.zoo.decoding import MASKED
from tokexport.exporter.zoo.tiny_vlm.evaluate import QuestionSet, question_set
from tokexport.exporter.zoo.tiny_vlm.model import TinyVLM, load
from tokexport.exporter.zoo.tiny_vlm.scenes import GRID, PATCH, pixel_values
from tokexport.exporter.zoo.tiny_vlm.text import WORDS
from tokexport.graph_passes.reference import reference
from torch import Tensor
from torch.nn import functional as F

QUESTIONS, SEED = 256, 15
PIXELS = (0, 8, 16)  # of 255: the largest difference of two patches that count as equal
SHARES = (0.05, 0.1, 0.2)  # of the norm of the earlier token
PADDING = 8


def flat(drawn: QuestionSet) -> QuestionSet:
    """The same scenes where each patch without an object has the mean colour of all of these, as on a screen."""
    patches = drawn.pixels.reshape(-1, GRID, PATCH, GRID, PATCH, 3).transpose(0, 1, 3, 2, 4, 5).copy()
    # A scene's objects cover what any of its questions is about, and each question has all of them.
    for number, covered in enumerate(patches.reshape(len(patches), GRID * GRID, PATCH, PATCH, 3)):
        bare = ~drawn.content[np.flatnonzero(drawn.scene == number)[0]] & (covered.std((1, 2, 3)) < 15)
        covered[bare] = covered[bare].mean((0, 1, 2)).astype(np.uint8)
    pixels = patches.transpose(0, 1, 3, 2, 4, 5).reshape(drawn.pixels.shape)
    return replace(drawn, pixels=pixels)


def joined(near: Tensor) -> Tensor:
    """The earlier token that each joins, itself where there is none [S, N]; near [S, N, N] bool, symmetric."""
    first = torch.arange(near.shape[1]).repeat(len(near), 1)
    for at in range(near.shape[1]):
        leads = first[:, at] == at
        takes = near[:, at] & leads[:, None] & (first == torch.arange(near.shape[1]))
        first = torch.where(takes & (torch.arange(near.shape[1]) > at), at, first)
    return first


def bucketed(first: Tensor, spare: int = 0) -> tuple[Tensor, Tensor]:
    """Members [S, N], numbered, and positions [S, K] of K slots, the most that any input needs and `spare` more."""
    leads = first == torch.arange(first.shape[1])
    number = leads.cumsum(1) - 1
    keep = int(leads.sum(1).max()) + spare
    order = F.pad((~leads).int().argsort(dim=1, stable=True), (0, spare))[:, :keep]
    return number.gather(1, first), torch.where(torch.arange(keep) < leads.sum(1, keepdim=True), order, 0)


@torch.inference_mode()
def encoded(model: TinyVLM, pixels: Tensor, first: Tensor, spare: int = 0) -> Slots:
    """What the encoder makes of patches that were merged in front of it, with log(size) in each of its layers."""
    vision = model.vision
    member, kept = bucketed(first, spare)
    hot = F.one_hot(member, kept.shape[1]).float()
    count = hot.sum(1)
    bias = F.pad(count.log().clamp(min=MASKED), (1, 0))[:, None, None]
    x = vision.embed(pixels)
    patches = (hot.transpose(1, 2) @ x[:, 1:]) / count.clamp(min=1)[..., None]
    x = torch.cat([x[:, :1], patches], 1)
    for layer in vision.layers:
        y = layer.norm1(x)
        parts = [layer.split(project(y)) for project in (layer.q_proj, layer.k_proj, layer.v_proj)]
        x = x + layer.out_proj(F.scaled_dot_product_attention(*parts, attn_mask=bias).transpose(1, 2).flatten(2))
        x = x + layer.fc2(F.gelu(layer.fc1(layer.norm2(x))))
    tokens = model.projector(x[:, 1:])
    return Slots(tokens, kept, member, tokens[:, :1].expand(-1, member.shape[1], -1))


@torch.inference_mode()
def measure(model: TinyVLM, drawn: QuestionSet) -> dict[str, Any]:
    """Of one kind of picture."""
    pixels = torch.from_numpy(pixel_values(drawn.pixels))
    features, asked = model.vision(pixels)[:, 1:], Answering(model, drawn, WORDS)
    every = model.projector(features)
    n = every.shape[1]

    def right(slots: Slots) -> float:
        return float(1 - asked.wrong(slots, Way(sizes="members")).mean())

    def counted(slots: Slots) -> dict[str, float]:
        used = (slots.count() > 0).sum(1).float()
        return {"tokens": float(used.mean()), "bucket": slots.kept.shape[1], "right": right(slots)}

    whole = Slots(every, torch.arange(n).expand(len(every), -1), torch.arange(n).expand(len(every), -1), every)
    found: dict[str, Any] = {"uncompressed": right(whole), "patches": {}, "tokens": {}}
    patches = F.unfold(torch.from_numpy(drawn.pixels).permute(0, 3, 1, 2).float(), PATCH, stride=PATCH).transpose(1, 2)
    patches = patches.to(torch.int16)
    apart = torch.stack([(one[:, None] - one).abs().amax(2) for one in patches])
    for limit in PIXELS:
        first = joined(apart <= limit)
        slots = encoded(model, pixels, first)
        padded = encoded(model, pixels, first, PADDING)
        off = (padded.tokens[:, : slots.kept.shape[1]] - slots.tokens).abs().max()
        spread = slots.tokens.gather(1, slots.member[..., None].expand_as(every)) - every
        print(limit, flush=True)
        found["patches"][str(limit)] = {
            **counted(slots),
            "changed_by_padding": float(off),
            "changed_by_merging": float(spread.norm(dim=2).mean() / every.norm(dim=2).mean()),
            "right_padded": right(padded),
        }
    apart = torch.cdist(features, features) / features.norm(dim=2)[..., None]
    for share in SHARES:
        member, kept = bucketed(joined(apart <= share))
        hot = F.one_hot(member, kept.shape[1]).float()
        merged = hot.transpose(1, 2) @ features / hot.sum(1).clamp(min=1)[..., None]
        row = counted(Slots(model.projector(merged), kept, member, every))
        same = reference("kcenter_merge", features, keep=round(row["tokens"]))
        other = Slots(model.projector(same.tokens), same.kept_indices, same.assignment, every)
        found["tokens"][str(share)] = {**row, "kcenter_merge": right(other)}
    return found


def main() -> None:
    """Both kinds of picture."""
    model, drawn = load(), question_set(QUESTIONS, SEED)
    found = {"as drawn": measure(model, drawn), "flat background": measure(model, flat(drawn))}
    save("same_tokens", found, "python benchmarks/same_tokens.py")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
