"""Language models with compressors between their layers, in PyTorch: those of graphs, and transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.checkpoint import Lengths
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.sequence import Step


def cut(folder: Path, *steps: tuple[str, int], method: str = "cls_topk", prompt: int = 24, **params: Any) -> Any:
    source: Any = open_source(str(folder), parts="all", lengths=Lengths(prompt, 20))
    return source.inside([Step(make(method, params), None, keep, seam) for seam, keep in steps], size_bias=True)


def both(source: Any, sizes: list[int] | None = None) -> tuple[dict[str, Any], Any]:
    """What prefill gives, its prompt padded, and what the model's own code answers, for the same drawn tokens.

    `sizes` are how many each of these stands for. With ``next``, the scores that decode gives behind the first word.
    """
    count = source.tokens
    tokens = np.random.default_rng(0).normal(0, 1, (1, count, source.decoder.width)).astype(np.float32)
    bias = np.log(np.array([sizes or [1] * count], np.float32))
    embed, prefill, decode = source.language(count)
    fed = {**prefill.inputs, "inputs_embeds": embed.module(embed.inputs["input_ids"], torch.from_numpy(tokens))}
    assert int(fed["last_index"]) < fed["inputs_embeds"].shape[1] - 1, "it has padding"
    encoded = {"tokens": tokens, "kept_indices": np.arange(count)[None]}
    own = source.own_answer(encoded, bias, 2)
    with torch.no_grad():
        values = prefill.module(**{**fed, "token_bias": torch.from_numpy(bias)})
        found = dict(zip(prefill.outputs, values, strict=True))
        given = {name.replace("present_", "past_"): value for name, value in found.items()}
        told = {"input_ids": torch.tensor([own.ids[:1]]), "write_index": fed["last_index"] + 1}
        given |= {**told, "token_bias": torch.from_numpy(bias)}
        found["next"] = decode.module(*(given[name] for name in decode.inputs))[0]
    return found, own


def picks(source: Any) -> tuple[list[int], list[int]]:
    """What prefill keeps behind its compressor, and what the model's own code keeps."""
    found, own = both(source)
    return found["kept_indices_1"][0].tolist(), own.picks["kept_indices_1"][0].tolist()
