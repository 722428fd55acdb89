"""A vision tower small enough to read: 16 patches and a CLS token, two blocks, a projector."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from tokexport.graph_passes.seams.seam import Seam, Signal

N, D, H = 16, 8, 2
_BLOCK = """
    n{i} = LayerNormalization<axis=-1>(h{i}, ln{i})
    q{i} = MatMul(n{i}, wq{i}) qs{i} = Reshape(q{i}, heads) qt{i} = Transpose<perm=[0,2,1,3]>(qs{i})
    k{i} = MatMul(n{i}, wk{i}) ks{i} = Reshape(k{i}, heads) kt{i} = Transpose<perm=[0,2,3,1]>(ks{i})
    v{i} = MatMul(n{i}, wv{i}) vs{i} = Reshape(v{i}, heads) vt{i} = Transpose<perm=[0,2,1,3]>(vs{i})
    s{i} = MatMul(qt{i}, kt{i}) probs{i} = Softmax<axis=-1>(s{i}) o{i} = MatMul(probs{i}, vt{i})
    ot{i} = Transpose<perm=[0,2,1,3]>(o{i}) oj{i} = Reshape(ot{i}, joined)
    a{i} = MatMul(oj{i}, wo{i}) r{i} = Add(h{i}, a{i})
    m{i} = MatMul(r{i}, w1{i}) g{i} = Gelu(m{i}) f{i} = MatMul(g{i}, w2{i}) h{j} = Add(r{i}, f{i})
"""
_TEXT = """<ir_version: 8, opset_import: ["" : 20]> toy (float[{b},16,6] pixels) => ({outputs}) {{
    e = MatMul(pixels, embed) c = Concat<axis=1>(cls, e) h0 = Add(c, pos) {blocks}
    encoded = Identity(h2) patches = Slice(encoded, one, end, one)
    p1 = MatMul(patches, wp1) p2 = Gelu(p1) out = MatMul(p2, wp2) {more}
}}"""


def toy_vit(outputs: str = "float[1,16,12] out", b: int = 1, more: str = "") -> ir.Model:
    """pixels [b, 16, 6] -> out [b, 16, 12], through `encoded` [b, 17, 8] and `patches` [b, 16, 8], then `more`."""
    blocks = "".join(_BLOCK.format(i=i, j=i + 1) for i in range(2))
    proto = onnx.parser.parse_model(_TEXT.format(b=b, outputs=outputs, blocks=blocks, more=more))
    rng = np.random.default_rng(0)
    shapes = {"embed": (6, D), "cls": (b, 1, D), "pos": (1, N + 1, D), "wp1": (D, D), "wp2": (D, 12)}
    for i in range(2):
        shapes |= {f"w{x}{i}": (D, D) for x in "qkvo"} | {f"w1{i}": (D, 4 * D), f"w2{i}": (4 * D, D), f"ln{i}": (D,)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {"heads": np.array([b, N + 1, H, D // H]), "joined": np.array([b, N + 1, D])}
    arrays |= {"one": np.array([1]), "end": np.array([2**63 - 1])}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def encoder_output(**changes: object) -> Seam:
    """The seam at `encoded`, with the CLS attention of the last block."""
    facts: dict[str, object] = {
        "name": "encoder_output",
        "tensor": "encoded",
        "tokens": N,
        "dim": D,
        "prefix": 1,
        "grid": (4, 4),
        "signals": {"cls_attention": Signal("attention", ("probs1",), prefix=1)},
    }
    return Seam(**{**facts, **changes})  # type: ignore[arg-type]


def projector_input(**changes: object) -> Seam:
    """The seam at `patches`: no prefix, no signals."""
    return encoder_output(**{"name": "projector_input", "tensor": "patches", "prefix": 0, "signals": {}, **changes})


def run(model: ir.Model, feeds: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Outputs by name, in ONNX Runtime; the feeds default to fixed noise."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options)
    if feeds is None:
        rng = np.random.default_rng(1)
        feeds = {v.name: rng.standard_normal([int(d) for d in v.shape]).astype(np.float32) for v in model.graph.inputs}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds)))


def text(model: ir.Model) -> str:
    """The whole model as text, to see whether anything changed."""
    return onnx.printer.to_text(ir.to_proto(model))
