"""What a file goes through between an exporter and here: simplifiers, the optimiser of ONNX Runtime, quantisers."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
from spelled_forward import Arrays
from spellings import Spelling
from tokexport.graph_passes.precision.half import to_half
from tokexport.graph_passes.precision.ranges import find_islands


def worked_on(model: onnx.ModelProto, spelling: Spelling, feeds: Arrays) -> onnx.ModelProto:
    """The model after the tool of a spelling; the model itself where there is none."""
    if not spelling.tool:
        return model
    with _quiet():
        return {"onnxslim": _slim, "onnxsim": _simplified, "basic": _optimised, "extended": _optimised,
                "dynamic": _dynamic, "qdq": _static, "half": _half}[spelling.tool](model, spelling, feeds)  # fmt: skip


def _slim(model: onnx.ModelProto, spelling: Spelling, feeds: Arrays) -> onnx.ModelProto:
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return onnxslim.slim(copy)


def _simplified(model: onnx.ModelProto, spelling: Spelling, feeds: Arrays) -> onnx.ModelProto:
    import onnxsim

    return onnxsim.simplify(model)[0]


def _optimised(model: onnx.ModelProto, spelling: Spelling, feeds: Arrays) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.log_severity_level = 4
    options.graph_optimization_level = level.ORT_ENABLE_BASIC if spelling.tool == "basic" else level.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _dynamic(model: onnx.ModelProto, spelling: Spelling, feeds: Arrays) -> onnx.ModelProto:
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        quantize_dynamic(model, str(Path(folder) / "q.onnx"), op_types_to_quantize=["MatMul", "Gemm"])
        return onnx.load(str(Path(folder) / "q.onnx"))


def _half(model: onnx.ModelProto, spelling: Spelling, feeds: Arrays) -> onnx.ModelProto:
    """Our own conversion, with what overflows left in float32."""
    graph = ir.from_proto(model)
    to_half(graph, "float16", find_islands(graph, feeds))
    return ir.to_proto(graph)


def _static(model: onnx.ModelProto, spelling: Spelling, feeds: Arrays) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Once(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [feeds]

        def get_next(self) -> Arrays | None:
            given, self.left = self.left[:1], self.left[1:]
            return given[0] if given else None

    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "q.onnx")
        quantize_static(model, target, Once(), quant_format=QuantFormat.QDQ, per_channel=False)
        return onnx.load(target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
