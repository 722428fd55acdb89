"""The greedy `generate` of a model of transformers, with hooks that bring in what it does not take itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import nn
from transformers import GenerationConfig

from ..sources.source import Answered

# (module, its arguments, those by name) -> both, changed.
Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]


class Special(Protocol):
    """The special ids of a model."""

    @property
    def bos(self) -> int:
        """Begins a text."""

    @property
    def eos(self) -> list[int]:
        """End one."""

    @property
    def pad(self) -> int:
        """Fills one."""


def greedy(
    generate: Callable[..., Any],
    hooks: Iterable[tuple[nn.Module, Hook]],
    special: Special,
    limit: int,
    *,
    begun: int = 0,
    inputs: dict[str, Any],
    **more: Any,
) -> Answered:
    """What it says.

    Args:
        generate: of the model.
        hooks: called before the module that each belongs to, as long as this lasts.
        special: ids.
        limit: at most so many new ids.
        begun: ids of the prompt that it returns in front of them.
        inputs: of `generate`.
        more: of its GenerationConfig.
    """
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in hooks]
    try:
        made = generate(
            **inputs,
            generation_config=GenerationConfig(
                max_new_tokens=limit,
                do_sample=False,
                bos_token_id=special.bos,
                eos_token_id=special.eos,
                pad_token_id=special.pad,
                output_scores=True,
                return_dict_in_generate=True,
                **more,
            ),
        )
    finally:
        for handle in handles:
            handle.remove()
    return Answered(made.sequences[0, begun:].tolist(), torch.cat(made.scores).numpy())
