"""Run a compressor's ONNX body as a local function in ONNX Runtime."""

import functools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from tokexport.graph_passes.compressors import OUTPUTS, Case, Compressed, Compressor
from tokexport.graph_passes.compressors.base import weights, width
from tokexport.graph_passes.ir_tools.builder import DTYPES, OPSET, Builder

DOMAIN = "tokexport"
# What a signal's shape is behind the batch.
SIGNAL_DIMS = {
    **{f"{who}_attention": lambda case: [case.tokens] for who in ("cls", "received", "words", "raters", "peak")},
    "keys": lambda case: [case.tokens, 6],
    "text": lambda case: [4, case.dim],
}


def body_model(compressor: Compressor, case: Case, *, exact_ties: bool = False):
    """A model of one node with the compressor's body as its function; the batch is dynamic."""
    compressor.check(case)
    dtype = DTYPES[case.dtype]
    shapes = {"tokens": ["B", case.tokens, case.dim]}
    shapes |= {name: ["B", *SIGNAL_DIMS[name](case)] for name in compressor.signals()}
    shapes |= {name: list(array.shape) for name, array in weights(compressor, case).items()}

    formal = {name: ir.Value(name=name) for name in shapes}
    b = Builder("body_", exact_ties=exact_ties)
    result = compressor.onnx(b, case, **formal)
    outputs = {name: getattr(result, name) for name in OUTPUTS}
    function = b.function(DOMAIN, "TokexportBody", list(formal.values()), outputs)

    elements = {name: ir.DataType.FLOAT if name.endswith("attention") else dtype for name in shapes}
    inputs = [ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(elements[n])) for n, s in shapes.items()]
    node = ir.Node(DOMAIN, "TokexportBody", inputs, num_outputs=len(OUTPUTS))
    types = (dtype, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.INT64)
    dims = ([case.keep, width(compressor, case)], [case.keep], [case.keep], [case.tokens])
    for value, name, element, rest in zip(node.outputs, OUTPUTS, types, dims):
        value.name, value.type, value.shape = f"out_{name}", ir.TensorType(element), ir.Shape(["B", *rest])
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": OPSET, DOMAIN: 1}, name="body")
    return ir.Model(graph, ir_version=10, functions=[function])


class BodySession:
    """A compiled body: numpy tokens [B, N, D] and signals in, Compressed of arrays out."""

    def __init__(self, compressor: Compressor, case: Case, *, threads: int = 1, exact_ties: bool = False):
        self.model = body_model(compressor, case, exact_ties=exact_ties)
        proto = ir.to_proto(self.model)
        onnx.checker.check_model(proto)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        self.session = ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        self.weights = {name: array.astype(case.dtype) for name, array in weights(compressor, case).items()}

    def __call__(self, tokens: np.ndarray, **signals: np.ndarray) -> Compressed:
        return Compressed(*self.session.run(None, {"tokens": tokens, **signals, **self.weights}))


@functools.lru_cache(maxsize=256)
def body_session(compressor: Compressor, case: Case, exact_ties: bool = False) -> BodySession:
    """A compiled body, kept for the next test that wants the same."""
    return BodySession(compressor, case, exact_ties=exact_ties)


def every_way(compressor: Compressor, case: Case, tokens: np.ndarray, **signals: np.ndarray) -> dict[str, Compressed]:
    """The reference, the body, and the body for targets without tie order, as numpy arrays."""
    compressor.check(case)
    torch_signals = {name: torch.from_numpy(value) for name, value in signals.items()}
    torch_signals |= {name: torch.from_numpy(array) for name, array in weights(compressor, case).items()}
    reference = compressor.reference(case, torch.from_numpy(tokens), **torch_signals)
    return {
        "reference": Compressed(*(getattr(reference, name).numpy() for name in OUTPUTS)),
        "body": body_session(compressor, case)(tokens, **signals),
        "body with exact ties": body_session(compressor, case, True)(tokens, **signals),
    }
