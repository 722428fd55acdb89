"""A recogniser as transformers runs it, fed the tokens of a compressor: what the whole model is proved against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from ..sources.source import Answered
from ..sources.weights import without_weights
from .greedy_reference import greedy
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

        return greedy(
            partial(GenerationMixin.generate, self.model),
            [(layer.encoder_attn, biased) for layer in self.model.model.decoder.layers],
            settings,
            limit,
            begun=len(prompt),
            inputs={
                "encoder_outputs": self._encoded(last_hidden_state=torch.from_numpy(np.asarray(tokens, np.float32))),
                "decoder_input_ids": torch.tensor([[*prompt]]),
            },
            suppress_tokens=settings.suppress or None,
            begin_suppress_tokens=settings.begin_suppress or None,
        )
