"""tiny-asr, the built-in recogniser: encoder, prefill and decode, its words, and spoken clips for the proof.

    input_features [1, 80, 400] float32 -> tokens [1, N, D], N = 200, after the final layer norm

As in Whisper there is no CLS token and no projector: the decoder's cross-attention reads these tokens as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ...runtimes.bundle.manifest import GenerationRecord, ProcessorRecord
from ...runtimes.media.log_mel import input_features
from ..sources.source import GraphSource, Parts, Question, Source
from ..zoo.tiny_asr import model as zoo
from ..zoo.tiny_asr.clips import clips
from ..zoo.tiny_asr.evaluate import evaluate, question_set, words_right
from ..zoo.tiny_asr.speech import SOUND
from ..zoo.tiny_asr.text import BOS, EOS, PAD, WORD_TO_ID, WORDS

_VOCABULARY = "processor/vocabulary.json"

# The language graphs are proved on a word that a transcript can hold, not on padding.
_WORD = "seven"


@dataclass
class TinyASRSource(Source):
    """See the module docstring.

    Attributes:
        model: the whole model, in eval mode.
        parts: ``encoder`` leaves the language graphs out.
    """

    model: zoo.TinyASR = field(kw_only=True)
    parts: Parts = "all"

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """The committed clips, in turn; each further round starts 0.1 s later in them."""
        spoken = clips()
        waveforms = [spoken[i % len(spoken)].waveform()[i // len(spoken) * SOUND.sample_rate // 10 :] for i in range(n)]
        return [{"input_features": input_features(waveform, SOUND)} for waveform in waveforms]

    def questions(self, n: int, seed: int) -> list[Question]:
        """See `Source`; spoken now by espeak-ng in the voices of training, with empty prompts.

        Raises:
            MissingError: espeak-ng or soxr is not installed.
        """
        return [Question(heard.waveform, "", heard.text, heard.content) for heard in question_set(n, seed)]

    def score(self, said: Sequence[str], answers: Sequence[str]) -> float:
        """1 - word error rate; below 0 where more words are wrong than were spoken."""
        return words_right(said, answers)

    def uncompressed_accuracy(self, n: int, seed: int) -> float:
        """See `Source`."""
        return evaluate(self.model, n, seed)

    def language(self, keep: int) -> list[GraphSource]:
        """prefill and decode for K = `keep`; the examples are an empty transcript and its first word."""
        if self.parts == "encoder":
            return []
        config = self.model.config
        own = [f"{kind}_{layer}" for layer in range(config.layers) for kind in ("key", "value")]
        cache = (1, config.heads, config.capacity, config.head_dim)
        cross = (1, config.heads, keep, config.head_dim)
        bias = torch.zeros(1, keep)
        return [
            GraphSource(
                role="prefill",
                module=zoo.Prefill(self.model).eval(),
                inputs={
                    "input_ids": torch.tensor([[BOS] + [PAD] * (config.prompt_length - 1)]),
                    "tokens": torch.zeros(1, keep, config.dim),
                    "token_bias": bias,
                    "last_index": torch.tensor([0]),
                },
                outputs=(
                    "logits",
                    *(f"present_{name}" for name in own),
                    *(f"cross_{name}" for name in own),
                ),
            ),
            GraphSource(
                role="decode",
                module=zoo.Decode(self.model).eval(),
                inputs={
                    "input_ids": torch.tensor([[WORD_TO_ID[_WORD]]]),
                    "write_index": torch.tensor([1]),
                    "token_bias": bias,
                    **{f"past_{name}": torch.zeros(cache) for name in own},
                    **{f"cross_{name}": torch.zeros(cross) for name in own},
                },
                outputs=("logits", *(f"new_{name}" for name in own)),
            ),
        ]

    def generation(self, keep: int) -> GenerationRecord | None:
        """See `zoo.tiny_asr.model` for the contract; one capacity for each layer."""
        if self.parts == "encoder":
            return None
        config = self.model.config
        return GenerationRecord(
            attention="cross",
            image_span=(0, keep),
            tokens_in=config.tokens,
            prompt_length=config.prompt_length,
            kv_capacity=[config.capacity] * config.layers,
            max_new_tokens=config.max_new,
            vocabulary=config.vocab,
            bos=BOS,
            pad=PAD,
            eos=[EOS],
        )


def open_family(parts: Parts = "all") -> TinyASRSource:
    """Read the shipped weights."""
    model = zoo.load()
    config = model.config
    return TinyASRSource(
        kind="builtin",
        name="tiny-asr",
        modality="audio",
        encoder=GraphSource(
            role="encoder",
            module=zoo.Encoder(model).eval(),
            inputs={"input_features": torch.zeros(1, config.mels, config.frames)},
            outputs=("tokens",),
            grid=(config.tokens,),
        ),
        files=(zoo.WEIGHTS,),
        # The decoder follows the encoder directly, so a paper's projector input and output are both this seam.
        auto_seam=dict.fromkeys(("encoder_output", "projector_input", "projector_output"), "encoder_output"),
        preprocess=SOUND,
        processor=ProcessorRecord(kind="words", vocabulary=_VOCABULARY),
        processor_files={_VOCABULARY: json.dumps(WORDS.to_json(), indent=1).encode()},
        has_task=True,
        metric="words right (1 - WER)",
        model=model,
        parts=parts,
    )
