"""A Whisper checkpoint whose encoder is cut at a seam: encoded once up to there, compressed by a product's body.

The decoder is transformers'. log(size) is added to the attention of all that reads merged tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Tokens [N, D] of one clip -> the tokens that are left [K, D], and how many each stands for [K].
Compress = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Recogniser:
    """Clips to transcripts.

    Args:
        folder: the checkpoint.
        sounds: of each clip, at 16 kHz and at most 30 s.
    """

    def __init__(self, folder: Path, sounds: list[np.ndarray]) -> None:
        from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

        # The masks of attention over merged tokens are of floats, which eager attention adds.
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self.features = extractor(sounds, sampling_rate=16_000, return_tensors="pt").input_features
        self.many_languages = getattr(self.model.generation_config, "is_multilingual", False)
        self.states: dict[int, torch.Tensor] = {}

    @torch.inference_mode()
    def upto(self, layer: int) -> torch.Tensor:
        """Tokens [clips, N, D] behind the first `layer` encoder layers, computed once; not normed."""
        encoder = self.model.model.encoder
        if layer not in self.states:
            if layer == 0:
                x = torch.nn.functional.gelu(encoder.conv1(self.features))
                x = torch.nn.functional.gelu(encoder.conv2(x)).permute(0, 2, 1)
                self.states[0] = x + encoder.embed_positions.weight
            else:
                before = self.upto(layer - 1)
                parts = [encoder.layers[layer - 1](one, None) for one in before.split(4)]
                self.states[layer] = torch.cat(parts)
        return self.states[layer]

    @torch.inference_mode()
    def transcripts(self, compress: Compress | None, layer: int | None, *, bias: bool) -> list[str]:
        """What is said in each clip.

        Args:
            compress: None: every token is kept.
            layer: the encoder layers before compression; None: all of them and the last norm.
            bias: whether log(size) is added.
        """
        encoder = self.model.model.encoder
        at = len(encoder.layers) if layer is None else layer
        x = self.upto(at)
        if layer is None:
            x = encoder.layer_norm(x)
        mask = None
        if compress:
            pairs = [compress(one.numpy()) for one in x]
            x = torch.from_numpy(np.stack([tokens for tokens, _ in pairs]))
            mask = torch.from_numpy(np.stack([sizes for _, sizes in pairs])).log()[:, None, None] if bias else None
        if layer is not None:
            for block in encoder.layers[at:]:
                parts = [
                    block(one, None if mask is None else mask[4 * i : 4 * i + 4]) for i, one in enumerate(x.split(4))
                ]
                x = torch.cat(parts)
            x = encoder.layer_norm(x)
        return self._decoded(x, mask)

    def _decoded(self, x: torch.Tensor, mask: torch.Tensor | None) -> list[str]:
        """Greedy, by transformers, with a mask [clips, 1, 1, K] that cross-attention adds."""
        from transformers.modeling_outputs import BaseModelOutput

        layers = self.model.model.decoder.layers
        kept = [layer.encoder_attn.forward for layer in layers]

        def masked(forward: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: forward(*args, **{**kwargs, "attention_mask": mask})

        for layer, forward in zip(layers, kept):
            layer.encoder_attn.forward = masked(forward)
        try:
            asked = {"language": "en", "task": "transcribe"} if self.many_languages else {}
            ids = self.model.generate(
                encoder_outputs=BaseModelOutput(x), attention_mask=None, do_sample=False, max_new_tokens=160, **asked
            )
        finally:
            for layer, forward in zip(layers, kept):
                layer.encoder_attn.forward = forward
        return [str(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


@lru_cache(maxsize=4)
def body(method: str, n: int, dim: int, ratio: float, params: tuple[tuple[str, Any], ...] = ()) -> Compress:
    """A method's ONNX body in ONNX Runtime, for tokens [n, dim]."""
    import onnx
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession, SessionOptions
    from tokexport import compress

    shape = [1, n, dim]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["tokens"])],
        "tokens",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    made = compress(model, method=method, ratio=ratio, seam="tensor:tokens", params=dict(params))
    assert isinstance(made, onnx.ModelProto)
    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    sizes = next(name for name in names if name.endswith("sizes"))

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens, counted = session.run([names[0], sizes], {"x": np.ascontiguousarray(x[None], np.float32)})
        return tokens[0], counted[0]

    return run
