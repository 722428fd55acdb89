"""Language models with compressors between their layers, in PyTorch: those of graphs, and transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.checkpoint import Lengths
from tokexport.exporter.sources.clip import Clip
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.sequence import Step
from tokexport.runtimes.images import narrowed, placed, widened


def cut(
    folder: Path,
    *steps: tuple[str, int],
    method: str = "cls_topk",
    prompt: int = 24,
    images: int = 1,
    clip: Clip | None = None,
    **params: Any,
) -> Any:
    source: Any = open_source(str(folder), parts="all", lengths=Lengths(prompt, 20, images=images), clip=clip)
    return source.inside([Step(make(method, params), None, keep, seam) for seam, keep in steps], size_bias=True)


def both(source: Any, sizes: list[int] | None = None, images: int | None = None) -> tuple[dict[str, Any], Any]:
    """What prefill gives, its prompt padded, and what the model's own code answers, for the same drawn tokens.

    `sizes` are how many each of these stands for, of `images` in the prompt, by default as many as there is room for.
    With ``next``, the scores that decode gives behind the first word.
    """
    record, images = source.generation(source.tokens), images or source.images
    count = images * source.tokens
    tokens = np.random.default_rng(0).normal(0, 1, (1, count, source.decoder.width)).astype(np.float32)
    bias = np.log(np.array([sizes or [1] * count], np.float32))
    embed, prefill, decode = source.language(source.tokens)
    encoded = {"tokens": tokens, "kept_indices": np.tile(np.arange(source.tokens), images)[None]}
    own = source.own_answer(encoded, bias, 2, images)
    fed, ids, given = dict(prefill.inputs), embed.inputs["input_ids"], {}
    if record.images:
        words, starts = placed(source.proof_prompt(images), record, images)
        ids = torch.tensor([[*words, *[record.pad] * (record.prompt_length - len(words))]])
        fed["last_index"] = torch.tensor([len(words) - 1 + count])
        given["image_starts"] = torch.tensor([starts])
    every, kept, weights = (torch.from_numpy(widened(x, record)) for x in (tokens, encoded["kept_indices"], bias))
    fed |= {**given, "kept_indices": kept, "token_bias": weights}
    with torch.no_grad():
        fed["inputs_embeds"] = embed.module(ids, every, *given.values())
        assert int(fed["last_index"]) < fed["inputs_embeds"].shape[1] - 1, "it has padding"
        found = dict(zip(prefill.outputs, prefill.module(*(fed[name] for name in prefill.inputs)), strict=True))
        given |= {name.replace("present_", "past_"): value for name, value in found.items()}
        given |= {"input_ids": torch.tensor([own.ids[:1]]), "write_index": fed["last_index"] + 1, "token_bias": weights}
        found["next"] = decode.module(*(given[name] for name in decode.inputs))[0]
    for name in own.picks:
        found[name] = narrowed(found[name], record, images)
    return found, own


def picks(source: Any) -> tuple[list[int], list[int]]:
    """What prefill keeps behind its compressor, and what the model's own code keeps."""
    found, own = both(source)
    return found["kept_indices_1"][0].tolist(), own.picks["kept_indices_1"][0].tolist()
