"""A recogniser as transformers runs it, fed the tokens of a compressor: what the whole model is proved against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from ..sources.source import Answered
from ..sources.weights import without_weights
from .whisper_generation import Settings


class Reference:
    """A model of transformers with its own attention and its own caches.

    Args:
        kind: makes the model of a configuration, whose `model` has the encoder and the decoder, beside `proj_out`.
        config: of the folder.
        encoder: of transformers, loaded.
        decoder: likewise; both share their weights with it.
        head: the output layer.
        encoded: makes what the model takes for its encoder's output.
    """

    def __init__(
        self,
        kind: Callable[[Any], Any],
        config: Any,
        encoder: nn.Module,
        decoder: nn.Module,
        head: nn.Module,
        encoded: Callable[..., Any] = BaseModelOutput,
    ) -> None:
        config = copy.deepcopy(config)
        # Of all attentions of transformers the one that adds a mask as it is given.
        config._attn_implementation = "eager"
        with without_weights():
            model = kind(config)
        for part, loaded in ((model.model.encoder, encoder), (model.model.decoder, decoder), (model.proj_out, head)):
            part.load_state_dict(loaded.state_dict(), assign=True)
        self.model, self._encoded = model.eval(), encoded

    def answer(
        self, tokens: np.ndarray, token_bias: np.ndarray, prompt: Sequence[int], settings: Settings, limit: int
    ) -> Answered:
        """What greedy `generate` says; `token_bias` [1, K] goes to every cross-attention as its mask.

        The `generate` is that of every model of transformers: Whisper's own one wants the sound.
        """
        bias = torch.from_numpy(np.asarray(token_bias, np.float32))[:, None, None]

        def biased(
            _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return args, {**named, "attention_mask": bias}

        hooks = [
            layer.encoder_attn.register_forward_pre_hook(biased, with_kwargs=True)
            for layer in self.model.model.decoder.layers
        ]
        try:
            made = GenerationMixin.generate(
                self.model,
                encoder_outputs=self._encoded(last_hidden_state=torch.from_numpy(np.asarray(tokens, np.float32))),
                decoder_input_ids=torch.tensor([[*prompt]]),
                generation_config=GenerationConfig(
                    max_new_tokens=limit,
                    do_sample=False,
                    bos_token_id=settings.bos,
                    eos_token_id=settings.eos,
                    pad_token_id=settings.pad,
                    suppress_tokens=settings.suppress or None,
                    begin_suppress_tokens=settings.begin_suppress or None,
                    output_scores=True,
                    return_dict_in_generate=True,
                ),
            )
        finally:
            for hook in hooks:
                hook.remove()
        ids = made.sequences[0, len(prompt) :].tolist()
        return Answered(ids, torch.cat(made.scores).numpy())
