"""A child process: load the plugin library into TensorRT-RTX, build an engine of every graph in a folder.

Arguments: the library, how to load it (``load_library`` or ``dlopen``), the folder. For each graph a JSON line: file,
whether it was parsed, bytes of the engine, whether the plugin's fields are in it, and what was logged as an error.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import tensorrt_rtx as trt

logged: list[str] = []


class Log(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity <= trt.ILogger.ERROR:
            logged.append(message)


def build(builder: trt.Builder, log: Log, file: Path) -> dict:
    logged.clear()
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(str(file))
    if not parsed:
        return {"file": file.stem, "parsed": False, "log": logged}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    if any(-1 in value.shape for value in inputs):
        profile = builder.create_optimization_profile()
        for value in inputs:
            profile.set_shape(value.name, *([batch, *list(value.shape)[1:]] for batch in (1, 2, 4)))
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    plan = b"" if engine is None else bytes(engine)
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return {
        "file": file.stem,
        "parsed": True,
        "bytes": len(plan),
        "stored": b"stored_version" in plan and b"keep" in plan,
        "shapes": {value.name: list(value.shape) for value in outputs},
        "log": logged,
    }


def main(library: str, how: str, folder: str) -> None:
    log = Log()
    builder = trt.Builder(log)
    if how == "dlopen":
        ctypes.CDLL(library)
    else:
        trt.get_plugin_registry().load_library(library)
    if logged:
        raise SystemExit("\n".join(logged))
    for file in sorted(Path(folder).glob("*.onnx")):
        print(json.dumps(build(builder, log, file)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
