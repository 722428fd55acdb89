"""Small files to go wrong with, and what a folder holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

PLAIN = """<ir_version: 10, opset_import: ["" : 18]>
toy (float[{batch},{n},8] x) => (float[{batch},{n},4] y)
<float[8,4] w>
{{ features = Tanh (x)  y = MatMul (features, w) }}"""


def save(text: str, path: Path, **arrays: np.ndarray) -> Path:
    model = onnx.parser.parse_model(text)
    del model.graph.initializer[:]
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    for i, node in enumerate(model.graph.node):
        node.name = f"node_{i}_{node.op_type}"
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("features", 1, [1, 12, 8]))
    onnx.save(model, path)
    return path


def plain(path: Path, batch: str = "1", n: str = "12") -> Path:
    return save(PLAIN.format(batch=batch, n=n), path, w=np.random.default_rng(0).standard_normal((8, 4)))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
