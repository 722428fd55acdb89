"""A Whisper checkpoint whose encoder is cut at a seam: encoded once up to there, compressed by a product's body.

The decoder is transformers'. log(size) is added to the attention of all that reads merged tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Tokens [N, D] of one clip and its signals -> the tokens that are left [K, D], and how many each stands for [K].
Compress = Callable[[np.ndarray, dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]


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
        # Layers before a seam -> signal -> [clips, N] or [clips, N, Dk], of the last of these layers.
        self.signals: dict[int, dict[str, torch.Tensor]] = {}

    @torch.inference_mode()
    def upto(self, layer: int) -> torch.Tensor:
        """Tokens [clips, N, D] behind the first `layer` encoder layers, computed once; not normed."""
        if layer not in self.states:
            if layer == 0:
                self.states[0] = self._embedded(self.features)
            else:
                before, block = self.upto(layer - 1), self.model.model.encoder.layers[layer - 1]
                with _signals(block.self_attn) as seen:
                    self.states[layer] = torch.cat([block(one, None) for one in before.split(4)])
                self.signals[layer] = {name: torch.cat(parts) for name, parts in seen.items()}
        return self.states[layer]

    def _embedded(self, features: torch.Tensor) -> torch.Tensor:
        encoder = self.model.model.encoder
        x = torch.nn.functional.gelu(encoder.conv1(features))
        x = torch.nn.functional.gelu(encoder.conv2(x)).permute(0, 2, 1)
        return x + encoder.embed_positions.weight[: x.shape[1]]

    @torch.inference_mode()
    def in_window(self, seconds: int, chosen: list[int]) -> list[str]:
        """What is said in the clips of these numbers, read by an encoder for so many seconds."""
        encoder = self.model.model.encoder
        x = self._embedded(self.features[chosen, :, : 100 * seconds])
        for block in encoder.layers:
            x = block(x, None)
        return self._decoded(encoder.layer_norm(x), None)

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
            signals = self.signals[at]
            pairs = [compress(x[i].numpy(), {name: s[i].numpy() for name, s in signals.items()}) for i in range(len(x))]
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
        from transformers import GenerationMixin
        from transformers.modeling_outputs import BaseModelOutput

        layers = self.model.model.decoder.layers
        kept = [layer.encoder_attn.forward for layer in layers]

        def masked(forward: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: forward(*args, **{**kwargs, "attention_mask": mask})

        for layer, forward in zip(layers, kept):
            layer.encoder_attn.forward = masked(forward)
        try:
            # Whisper's own generate() reads on where a confused model says a time, and has no sound to read on.
            ids = GenerationMixin.generate(
                self.model,
                encoder_outputs=BaseModelOutput(x),
                decoder_input_ids=self._start().repeat(len(x), 1),
                do_sample=False,
                max_new_tokens=160,
            )
        finally:
            for layer, forward in zip(layers, kept):
                layer.encoder_attn.forward = forward
        return [str(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _start(self) -> torch.Tensor:
        """The tokens [1, T] that ask for an English transcript without times."""
        settings = self.model.generation_config
        asked = [settings.lang_to_id["<|en|>"], settings.task_to_id["transcribe"]] if self.many_languages else []
        return torch.tensor([[settings.decoder_start_token_id, *asked, settings.no_timestamps_token_id]])


@contextmanager
def _signals(attention: Any) -> Iterator[dict[str, list[torch.Tensor]]]:
    """What compressors read of an attention layer, batch by batch: means over heads, as `emit_signal` defines them."""
    seen: dict[str, list[torch.Tensor]] = {"received_attention": [], "keys": []}

    def keys(_: Any, __: Any, made: torch.Tensor) -> None:
        seen["keys"].append(made.unflatten(-1, (attention.num_heads, -1)).mean(2))

    def weights(_: Any, __: Any, made: tuple[torch.Tensor, torch.Tensor]) -> None:
        seen["received_attention"].append(made[1].mean((1, 2)))

    hooks = [attention.k_proj.register_forward_hook(keys), attention.register_forward_hook(weights)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@lru_cache(maxsize=4)
def body(method: str, n: int, dim: int, ratio: float, params: tuple[tuple[str, Any], ...] = ()) -> Compress:
    """A method's ONNX body in ONNX Runtime, for tokens [n, dim]."""
    import onnx_ir as ir
    from onnxruntime import InferenceSession, SessionOptions
    from tokexport.graph_passes.compressors import Case, make
    from tokexport.graph_passes.insertion.insert import insert
    from tokexport.graph_passes.ir_tools.builder import OPSET
    from tokexport.graph_passes.seams.seam import Seam, Signal

    compressor, keep = make(method, dict(params)), n - ceil(ratio * n)
    shapes = {"received_attention": [1, n], "keys": [1, n, 64]}
    given = {"x": [1, n, dim], **{f"tokens.{name}": shapes[name] for name in compressor.signals()}}
    inputs = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        for name, shape in given.items()
    ]
    node = ir.node("Identity", inputs[:1])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "tokens", inputs[0].type, inputs[0].shape
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": OPSET}, name=method)
    model = ir.Model(graph, ir_version=10)
    signals = {name: Signal("keys", ()) for name in compressor.signals()}
    compressor.check(Case(n, dim, keep, grid=(n,)))
    insert(model, Seam("tensor:tokens", "tokens", n, dim, "float32", grid=(n,), signals=signals), compressor, keep)
    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    # Of the node's outputs, tokens come first and sizes third; the graph may have the tokens once more.
    names = [value.name or "" for value in model.graph.outputs]
    sizes = next(name for name in names if name.endswith("sizes"))

    def run(x: np.ndarray, seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        read = {f"tokens.{name}": seen[name] for name in compressor.signals()}
        fed = {name: np.ascontiguousarray(array[None], np.float32) for name, array in {"x": x, **read}.items()}
        tokens, counted = session.run([names[0], sizes], fed)
        return tokens[0], counted[0]

    return run
