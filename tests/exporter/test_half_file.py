"""A file that is in half precision already: it stays as it is, and the manifest says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.pipeline import export
from tokexport.graph_passes.ir_tools.model_io import load_model

TEXT = """<ir_version: 10, opset_import: ["" : 18]>
g ({dtype}[1,12,8] x) => ({dtype}[1,12,8] y) {{ {body} }}"""


def half_file(path: Path, *, casts: bool = False) -> Path:
    """Products in float16; with `casts` between a float32 input and output, the Cast of the output in front."""
    import onnx

    if casts:
        body = "a = Cast<to=10>(x) m = MatMul(a, w) y = Cast<to=1>(m)"
        proto = onnx.parser.parse_model(TEXT.format(dtype="float", body=body))
        nodes = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend([nodes[1], nodes[2], nodes[0]])
    else:
        proto = onnx.parser.parse_model(TEXT.format(dtype="float16", body="y = MatMul(x, w)"))
    weights = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float16)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("casts", [False, True])
@pytest.mark.parametrize("asked", [[], ["--precision", "fp16"]])
def test_it_works_and_the_manifest_says_fp16(tmp_path: Path, casts: bool, asked: list[str]) -> None:
    file, out = half_file(tmp_path / "half.onnx", casts=casts), tmp_path / "out"
    words = ["model", str(file), "--method", "kcenter_merge", "--keep", "5", "--seam", "tensor:y", "-o", str(out)]
    done = CliRunner().invoke(main, [*words, *asked])
    assert done.exit_code == 0, done.output
    assert "fp16 already" in done.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert {graph["precision"] for variant in manifest["variants"] for graph in variant["graphs"].values()} == {"fp16"}
    types = {value.dtype for node in load_model(out / "encoder.onnx").graph for value in node.outputs}
    assert ir.DataType.FLOAT16 in types


def test_another_precision_is_refused_and_the_cure_cures(tmp_path: Path) -> None:
    file = half_file(tmp_path / "half.onnx")
    how = {"method": "uniform", "keep": 5, "seam": "tensor:y", "out": tmp_path / "out"}
    with pytest.raises(RequestError, match=r"fp16 already.*Leave --precision out"):
        export(str(file), precision="fp32", **how)
    assert export(str(file), **how).precision == "fp16"
