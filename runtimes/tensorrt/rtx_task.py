"""The task of `rtx.parse` and `rtx.build` in the child process: TensorRT-RTX parses a graph, and builds its engine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .failures import describe


def run(request: dict[str, Any], tell: Callable[[float, str], None]) -> dict[str, Any]:
    """Parse, and build where asked.

    Args:
        request: model (file), plugins (a library's path, ``python`` or None), build (whether), and where it is asked
            for sm (compute capability) and engine (file to write, or None).
        tell: not called.

    Returns:
        errors (a list of node, op, reason), parsed (whether), seconds (of the build), bytes (of the engine).
    """
    import tensorrt_rtx as trt

    logged: list[str] = []

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                logged.append(message)
                print(message, file=sys.stderr)

    log = Log()
    builder = trt.Builder(log)
    if request["plugins"]:
        _add_plugins(trt, request["plugins"], request["model"])
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request["model"]):
        errors = [describe(parser.get_error(i)) for i in range(parser.num_errors)]
        return {"errors": errors or _unnamed(logged), "parsed": False, "seconds": 0.0, "bytes": 0}
    if not request["build"]:
        return {"errors": [], "parsed": True, "seconds": 0.0, "bytes": 0}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{request['sm']}"), 0)
    start = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    if engine is None:
        return {"errors": _unnamed(logged), "parsed": True, "seconds": seconds, "bytes": 0}
    if request["engine"]:
        Path(request["engine"]).write_bytes(engine)
    return {"errors": [], "parsed": True, "seconds": seconds, "bytes": engine.nbytes}


def _add_plugins(trt: Any, which: str, model: str) -> None:
    from ...graph_passes.ir_tools.model_io import load_model
    from ...plugins import library, python_plugin

    names = library.needed(load_model(model))
    if which == "python":
        python_plugin.register(trt, names)
    else:
        library.load(trt, Path(which), names)


def _unnamed(messages: list[str]) -> list[dict[str, str]]:
    return [
        {"node": "", "op": "", "reason": text} for text in messages or ["TensorRT-RTX gave no engine and no reason"]
    ]
