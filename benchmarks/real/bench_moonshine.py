"""Moonshine tiny on human speech: words that change where tokens are removed, behind its encoder and inside it.

    python benchmarks/real/moonshine_tiny.py FOLDER
    python benchmarks/real/bench_moonshine.py FOLDER

In PyTorch, with transformers' own layers and the references of the methods. Each recording is read in parts of up to
10 s; the figure is the word error rate against the transcript of the uncompressed model. Inside, a slot turns by the
position that it inherits, and log(size) is in the later layers too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from tokenizers import Tokenizer
from tokexport import reference
from tokexport.graph_passes.budget import tokens_kept
from tokexport.runtimes.media.audio import open_sound
from tokexport.runtimes.media.recording import pieces
from torch import Tensor
from torch.nn import functional as F
from transformers import MoonshineForConditionalGeneration
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoderModelOutput

RATE = 16000
LONGEST = 10 * RATE
# Method, whether log(size) is added.
METHODS = (
    ("uniform", False),
    ("random", False),
    ("kcenter_merge", True),
    ("kcenter_merge", False),
    ("two_scale", True),
    ("tome", True),
    ("a_tome", True),
)
OF_KEYS = ("tome", "a_tome")
BEHIND = 6
# Behind so many layers of six; ratios.
PLACES = ((BEHIND, ("1/2", "3/4", "17/20")), (1, ("1/2", "3/4")), (2, ("1/2", "3/4")), (3, ("1/2", "3/4")))


@dataclass(frozen=True)
class Compressed:
    """Tokens [1, K, D] in the middle of the encoder, their positions [1, K], and log(size) [1, 1, 1, K] or None."""

    tokens: Tensor
    positions: Tensor
    bias: Tensor | None


class Recogniser:
    """The model and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = MoonshineForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
        self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.encoder = self.model.model.encoder
        self.keys: Tensor | None = None
        for layer in self.encoder.layers:
            layer.self_attn.register_forward_pre_hook(self._keep_keys, with_kwargs=True)

    def _keep_keys(self, attention: Any, _: Any, named: dict[str, Any]) -> None:
        keys = attention.k_proj(named["hidden_states"])
        self.keys = keys.unflatten(2, (-1, attention.head_dim)).mean(2)

    @torch.inference_mode()
    def encode(self, sound: np.ndarray, behind: int, method: str, ratio: str, biased: bool) -> Compressed:
        """Compress behind so many layers; no method: not at all."""
        encoder = self.encoder
        x = encoder.groupnorm(torch.tanh(encoder.conv1(torch.from_numpy(sound)[None, None])))
        x = F.gelu(encoder.conv3(F.gelu(encoder.conv2(x)))).transpose(1, 2)
        state = Compressed(x, torch.arange(x.shape[1])[None], None)
        for number, layer in enumerate(encoder.layers, 1):
            tables = encoder.rotary_emb(state.tokens, position_ids=state.positions)
            x = layer(state.tokens, attention_mask=state.bias, position_embeddings=tables)
            x = encoder.layer_norm(x) if number == len(encoder.layers) else x
            state = Compressed(x, state.positions, state.bias)
            if method and number == behind:
                signals = {"keys": self.keys} if method in OF_KEYS else {}
                made = reference(method, x, keep=tokens_kept(x.shape[1], ratio=ratio), **signals)
                bias = made.sizes.float().log()[:, None, None] if biased else None
                state = Compressed(made.tokens, made.kept_indices, bias)
        return state

    @torch.inference_mode()
    def text(self, encoded: Compressed, limit: int) -> str:
        """What greedy `generate` says, in lower case, without signs."""

        def biased(_: Any, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**named, "attention_mask": encoded.bias}

        layers = self.model.model.decoder.layers
        hooks = [layer.encoder_attn.register_forward_pre_hook(biased, with_kwargs=True) for layer in layers]
        outputs = MoonshineEncoderModelOutput(last_hidden_state=encoded.tokens)
        ids = self.model.generate(encoder_outputs=outputs, max_new_tokens=limit, do_sample=False)[0]
        for hook in hooks:
            hook.remove()
        said = self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        return " ".join(re.sub(r"[^a-z' ]", "", said.lower()).split())


def parts(folder: Path) -> Iterator[np.ndarray]:
    """Of every recording in the folder, cut where nobody speaks."""
    for path in sorted(folder.glob("*.wav")):
        with open_sound(path, RATE, 3600 * RATE, reader="the benchmark reads") as sound:
            yield from (piece.samples for piece in pieces(sound.blocks, LONGEST, RATE))


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    recogniser, sounds = Recogniser(folder), list(parts(folder))

    def said(*how: Any) -> list[str]:
        # 6.5 tokens a second are what the model was trained with; a few more show that it repeats itself.
        return [recogniser.text(recogniser.encode(one, *how), 8 * len(one) // RATE + 10) for one in sounds]

    whole = said(0, "", "", False)
    print(*whole, sep="\n")
    print(f"{len(sounds)} parts, {sum(len(text.split()) for text in whole)} words")
    print("behind layer, removed, method, words changed")
    for behind, ratios in PLACES:
        for ratio in ratios:
            for method, biased in METHODS:
                changed = jiwer.wer(whole, said(behind, method, ratio, biased))
                print(behind, ratio, method, "+ log(size)" if biased else "", f"{changed:.3f}", flush=True)


if __name__ == "__main__":
    main()
