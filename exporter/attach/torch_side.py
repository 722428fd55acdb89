"""The same language model in transformers, told the bias by its mask."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import GraphError, RequestError
from ..debug.compare import compare
from ..proof.metrics import Check
from ..sources.checkpoint import Checkpoint
from ..sources.configuration import built
from ..sources.pretrained import pretrained
from .feeds import causal, is_cache
from .proof import Pair, sizes


def against(pair: Pair, folder: Path, seed: int) -> list[Check]:
    """Compare the graph's logits at seeded sizes with those of a checkpoint of transformers.

    Raises:
        RequestError: the folder holds no language model that transformers knows, or one of other sizes.
        GraphError: the graph has no logits, or an input that the model does not take.
    """
    import torch

    bias, named = sizes(pair, seed), "logits"
    if named not in pair.after.outputs:
        raise GraphError(
            f"none of its outputs is called {named}",
            where=f"outputs {', '.join(pair.after.outputs)}",
            fix="Leave --against out, or export the model with that name for its logits.",
        )
    model = _opened(folder)
    tokens = pair.feeds[pair.attached.tokens]
    given = {"input_ids" if tokens.ndim == 2 else "inputs_embeds": torch.from_numpy(tokens)}
    mask = torch.from_numpy(causal(pair.length) + bias[:, None, None])
    kinds = set(getattr(model.config, "layer_types", None) or ())
    feeds = pair.feeds | {pair.attached.bias: bias}
    positions = pair.length.past + np.arange(pair.length.new)[None]
    if pair.attached.positions in feeds:
        # With gaps, as tokens have that were kept among others.
        positions = positions + np.random.default_rng(seed).integers(0, 3, positions.shape).cumsum(1)
        feeds[pair.attached.positions] = positions.astype(feeds[pair.attached.positions].dtype)
    try:
        with torch.inference_mode():
            made = model(
                **given,
                attention_mask=mask if len(kinds) < 2 else dict.fromkeys(kinds, mask),
                position_ids=torch.from_numpy(positions),
                past_key_values=_cache(pair, model.config),
                use_cache=True,
            ).logits.numpy()
    except (IndexError, RuntimeError) as error:
        raise RequestError(
            f"the checkpoint does not take what the graph takes: {error}", where=str(folder), fix="Is it this model's?"
        ) from error
    got = pair.after.run(feeds)[named]
    return [replace(compare(named, made[:, -got.shape[1] :], got, pair.threshold), part="PyTorch")]


def _opened(folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    checkpoint = Checkpoint(folder.resolve(), folder.name)
    where = checkpoint.folder / "config.json"
    if not where.is_file():
        raise RequestError(f"{folder} has no config.json", fix="Name the folder of the checkpoint of this model.")
    config = built(lambda: AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False), where)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise RequestError(
            f"transformers knows no language model {config.model_type!r}",
            where=str(folder),
            fix="Name a folder of the language model alone.",
        )
    return pretrained(checkpoint, AutoModelForCausalLM, config, "eager")


def _cache(pair: Pair, config: Any) -> Any:
    """The caches as transformers has them: of the key and value of each layer, by the numbers in their names."""
    import torch
    from transformers.cache_utils import DynamicCache

    held: dict[int, dict[str, torch.Tensor]] = {}
    assert pair.after.model is not None
    for value in pair.after.model.graph.inputs:
        if is_cache(value, pair.attached.tokens):
            name = value.name or ""
            # past_key_values.0.value: the last word says which.
            number, kinds = re.search(r"\d+", name), re.findall("key|value", name)
            if number is None or not kinds:
                raise GraphError(
                    f"which layer's keys or values input {name} holds, its name does not say",
                    fix="Leave --against out, or export it as past_key_values.0.key.",
                )
            held.setdefault(int(number[0]), {})[kinds[-1]] = torch.from_numpy(np.copy(pair.feeds[name]))
    cache = DynamicCache(config=config)
    for layer, parts in sorted(held.items()):
        cache.update(parts["key"], parts["value"], layer)
    return cache
