"""Tiny real exports, each made once per session, and toy graphs, for the tests of seams, signals and size bias."""

from __future__ import annotations

import functools
import io
import warnings
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.graph_passes.seams.find import find_seams
from tokexport.graph_passes.seams.seam import Seam

HIDDEN, HEADS = 32, 4


def llava_module(attention: str = "sdpa", feature_layer: int = -2) -> Any:
    """Vision tower (3 layers, CLS + 4 x 4 patches) and projector of a LLaVA with random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    vision = transformers.CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        image_size=56,
        patch_size=14,
    )
    text = transformers.LlamaConfig(
        hidden_size=40, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=63, vision_feature_layer=feature_layer
    )
    config._attn_implementation = attention
    model = transformers.LlavaForConditionalGeneration(config).eval().model

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision_tower, self.multi_modal_projector = model.vision_tower, model.multi_modal_projector

        def forward(self, pixel_values: Any) -> Any:
            states = self.vision_tower(pixel_values, output_hidden_states=True).hidden_states
            return self.multi_modal_projector(states[feature_layer][:, 1:])

    return Encoder().eval()


def whisper_module(attention: str = "sdpa") -> Any:
    """Whisper encoder with 2 layers, 100 mel frames -> 50 tokens, random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.WhisperConfig(
        d_model=HIDDEN,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=50,
        num_mel_bins=16,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    config._attn_implementation = attention
    return transformers.WhisperModel(config).eval().get_encoder()


INPUTS = {"llava": (1, 3, 56, 56), "whisper": (1, 16, 100)}
MODULES = {"llava": llava_module, "whisper": whisper_module}


@functools.cache
def module(kind: str, attention: str = "sdpa") -> Any:
    return MODULES[kind](attention)


def example(kind: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(INPUTS[kind]).astype(np.float32)


@functools.cache
def _exported(kind: str, attention: str, opset: int, dynamo: bool) -> bytes:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    arguments = (torch.from_numpy(example(kind)),)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(
                module(kind, attention), arguments, dynamo=True, opset_version=opset, verbose=False
            )
            program.save(buffer)
        else:
            torch.onnx.export(module(kind, attention), arguments, buffer, dynamo=False, opset_version=opset)
    return buffer.getvalue()


def exported(kind: str, opset: int = 18, *, attention: str = "sdpa", dynamo: bool = True) -> ir.Model:
    """A fresh copy of the export, which a test may edit."""
    import onnx

    return ir.from_proto(onnx.load_from_string(_exported(kind, attention, opset, dynamo)))


def stripped(model: ir.Model) -> ir.Model:
    """All metadata, node names and value names gone, as a simplifier may leave a graph."""
    kept = {*model.graph.inputs, *model.graph.outputs}
    for i, node in enumerate(model.graph):
        node.metadata_props.clear()
        node.name = f"n{i}"
        for j, value in enumerate(node.outputs):
            if value not in kept:
                value.name = f"v{i}_{j}"
    return model


def run(model: ir.Model, feeds: dict[str, np.ndarray], outputs: list[ir.Value] | None = None) -> list[np.ndarray]:
    """Run in ONNX Runtime; `outputs` are added to the graph outputs and returned instead of them."""
    ort = pytest.importorskip("onnxruntime")
    wanted = [value for value in (outputs or []) if not value.is_graph_output()]
    model.graph.outputs.extend(wanted)
    model.ir_version = 10
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    for _ in wanted:
        model.graph.outputs.pop()
    return session.run([value.name for value in (outputs or model.graph.outputs)], feeds)


class Toy:
    """A graph written by hand, node by node; every value has a shape."""

    def __init__(self, opset: int = 18) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="toy")
        self.model = ir.Model(self.graph, ir_version=10)
        self.random = np.random.default_rng(1)
        self.count = 0

    def input(self, name: str, *shape: int | str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.graph.inputs.append(value)
        return value

    def weight(self, *shape: int) -> ir.Value:
        return self.const(self.random.standard_normal(shape).astype(np.float32) * 0.3)

    def const(self, array: np.ndarray | list[int]) -> ir.Value:
        self.count += 1
        data = np.asarray(array)
        value = ir.Value(
            name=f"w{self.count}",
            shape=ir.Shape(data.shape),
            type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
            const_value=ir.tensor(data, name=f"w{self.count}"),
        )
        self.graph.register_initializer(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, name: str = "", **attributes: Any) -> ir.Value:
        self.count += 1
        node = ir.node(op_type, list(inputs), attributes, name=f"node{self.count}")
        node.outputs[0].name = name or f"x{self.count}"
        self.graph.append(node)
        return node.outputs[0]

    def output(self, *values: ir.Value) -> ir.Model:
        self.graph.outputs.extend(values)
        from onnx_ir.passes.common import ShapeInferencePass

        ShapeInferencePass()(self.model)
        return self.model

    def patches(self, image: ir.Value, dim: int, patch: int) -> ir.Value:
        """[B, 3, H, W] -> [B, N, D]."""
        conv = self.op("Conv", image, self.weight(dim, 3, patch, patch), strides=[patch, patch])
        flat = self.op("Reshape", conv, self.const([0, 0, -1]))
        return self.op("Transpose", flat, perm=[0, 2, 1])

    def block(self, x: ir.Value, dim: int, heads: int, *, mask: ir.Value | None = None) -> ir.Value:
        """One pre-norm transformer layer whose shapes hold for any number of tokens."""
        q, k, v = (
            self.op(
                "Transpose",
                self.op(
                    "Reshape", self.op("MatMul", x, self.weight(dim, dim)), self.const([0, 0, heads, dim // heads])
                ),
                perm=[0, 2, 1, 3],
            )
            for _ in range(3)
        )
        logits = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        logits = self.op("Mul", logits, self.const(np.float32((dim // heads) ** -0.5)))
        if mask is not None:
            logits = self.op("Add", logits, mask)
        mixed = self.op("MatMul", self.op("Softmax", logits, axis=-1), v)
        joined = self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self.const([0, 0, dim]))
        x = self.op("Add", x, self.op("MatMul", joined, self.weight(dim, dim)))
        return self.op("Add", x, self.op("MatMul", self.op("Relu", x), self.weight(dim, dim)))


def by_name(model: ir.Model) -> dict[str, Seam]:
    """The seams of a model by name."""
    return {seam.name: seam for seam in find_seams(model)}
