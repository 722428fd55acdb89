"""What `tokexport.compress` costs on a graph of the size of a 7B model, beside onnxslim and onnxsim.

    python benchmarks/bench_compress.py

The model is a vision tower of 24 layers, a projector and 32 decoder blocks: about 4,000 nodes over 13 GB of weights in
a sparse file, so that it needs no disk. The compressor goes between tower and projector, so that most of the graph,
with the token count in every Reshape, is downstream of it. Every measurement is a process of its own. Peak memory is
its maximum resident set size, and the kernel counts the bytes that it read. The other tools load weights into memory:
they get models of the same form that grow until one takes longer than `PEER_LIMIT_S` or fails.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from report import write

PEER_LIMIT_S = 180
LIMIT_S, LIMIT_MB = 1.0, 200
VISION_DIM, TOKENS, PATCH = 1024, 576, 588
# (layers of the vision tower, blocks of the decoder, its width): tokexport is measured on the first.
FULL = (24, 32, 4096)
PEERS = [(4, 2, 512), (12, 4, 1024), (24, 4, 2048)]


def build(folder: Path, layers: int, blocks: int, width: int) -> dict[str, Any]:
    """Write model.onnx over a sparse model.onnx.data; returns its node count and bytes of weights."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    infos: list[onnx.ValueInfoProto] = []
    constants: set[str] = set()
    offset = 0

    def weight(name: str, *shape: int) -> str:
        nonlocal offset
        length = int(np.prod(shape)) * (2 if width >= 4096 else 4)
        kind = TensorProto.FLOAT16 if width >= 4096 else TensorProto.FLOAT
        tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "model.onnx.data"), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        offset += length
        initializers.append(tensor)
        return name

    def small(name: str, *values: int) -> str:
        if name not in constants:
            constants.add(name)
            initializers.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    kind = TensorProto.FLOAT16 if width >= 4096 else TensorProto.FLOAT

    def op(op_type: str, inputs: list[str], shape: list[int], **attributes: Any) -> str:
        name = f"{op_type.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(op_type, inputs, [name], name=f"node_{name}", **attributes))
        infos.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def linear(x: str, name: str, n: int, into: int, out: int, bias: bool = True) -> str:
        y = op("MatMul", [x, weight(f"{name}.weight", into, out)], [1, n, out])
        return op("Add", [weight(f"{name}.bias", out), y], [1, n, out]) if bias else y

    def heads(x: str, n: int, dim: int, h: int) -> str:
        split = op("Reshape", [x, small(f"heads_{n}_{h}_{dim}", 1, n, h, dim // h)], [1, n, h, dim // h])
        return op("Transpose", [split], [1, h, n, dim // h], perm=[0, 2, 1, 3])

    def layer(x: str, name: str, n: int, dim: int, h: int, inner: int, gated: bool) -> str:
        def norm(y: str, which: str) -> str:
            scale = [y, weight(f"{name}.{which}.weight", dim), weight(f"{name}.{which}.bias", dim)]
            return op("LayerNormalization", scale, [1, n, dim], axis=-1)

        y = norm(x, "norm1")
        q, k, v = (heads(linear(y, f"{name}.{p}", n, dim, dim), n, dim, h) for p in "qkv")
        if gated:
            # Rotation of queries and keys, as decoders are exported: two halves, one negated, joined again.
            rotated = []
            half = dim // h // 2
            for z in (q, k):
                first = op(
                    "Slice", [z, small("zero", 0), small(f"half_{half}", half), small("last", 3)], [1, h, n, half]
                )
                second = op(
                    "Slice", [z, small(f"half_{half}", half), small("end", 2**62), small("last", 3)], [1, h, n, half]
                )
                turned = op("Concat", [op("Neg", [second], [1, h, n, half]), first], [1, h, n, 2 * half], axis=-1)
                cos, sin = weight(f"{name}.cos{len(rotated)}", 2 * half), weight(f"{name}.sin{len(rotated)}", 2 * half)
                a = op("Mul", [z, cos], [1, h, n, 2 * half])
                b = op("Mul", [turned, sin], [1, h, n, 2 * half])
                rotated.append(op("Add", [a, b], [1, h, n, 2 * half]))
            q, k = rotated
            for _ in range(18):  # Casts and identities of a real export, to reach its node count.
                q, k, v = (op("Identity", [z], [1, h, n, dim // h]) for z in (q, k, v))
        kt = op("Transpose", [k], [1, h, dim // h, n], perm=[0, 1, 3, 2])
        p = op("Softmax", [op("MatMul", [q, kt], [1, h, n, n])], [1, h, n, n], axis=-1)
        o = op("Transpose", [op("MatMul", [p, v], [1, h, n, dim // h])], [1, n, h, dim // h], perm=[0, 2, 1, 3])
        o = op("Reshape", [o, small(f"join_{n}_{dim}", 1, n, dim)], [1, n, dim])
        x = op("Add", [x, linear(o, f"{name}.out", n, dim, dim)], [1, n, dim])
        y = norm(x, "norm2")
        z = linear(y, f"{name}.up", n, dim, inner)
        if gated:
            gate = linear(y, f"{name}.gate", n, dim, inner)
            z = op("Mul", [op("Mul", [gate, op("Sigmoid", [gate], [1, n, inner])], [1, n, inner]), z], [1, n, inner])
        else:
            z = op("Mul", [z, op("Sigmoid", [z], [1, n, inner])], [1, n, inner])
        return op("Add", [x, linear(z, f"{name}.down", n, inner, dim)], [1, n, dim])

    x = linear("pixels", "embed", TOKENS, PATCH, VISION_DIM)
    x = op("Add", [x, weight("positions", 1, TOKENS, VISION_DIM)], [1, TOKENS, VISION_DIM])
    for i in range(layers):
        x = layer(x, f"vision.layers.{i}", TOKENS, VISION_DIM, 16, 4 * VISION_DIM, gated=False)
    nodes.append(helper.make_node("Identity", [x], ["vision"], name="vision_tower"))
    infos.append(helper.make_tensor_value_info("vision", kind, [1, TOKENS, VISION_DIM]))
    x = linear("vision", "projector.1", TOKENS, VISION_DIM, width)
    x = linear(
        op("Mul", [x, op("Sigmoid", [x], [1, TOKENS, width])], [1, TOKENS, width]), "projector.2", TOKENS, width, width
    )
    for i in range(blocks):
        x = layer(x, f"decoder.layers.{i}", TOKENS, width, width // 128, width * 11 // 4, gated=True)
    nodes.append(helper.make_node("Identity", [x], ["hidden"]))
    graph = helper.make_graph(
        nodes,
        "vlm",
        [helper.make_tensor_value_info("pixels", kind, [1, TOKENS, PATCH])],
        [helper.make_tensor_value_info("hidden", kind, [1, TOKENS, width])],
        initializers,
        value_info=infos,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with (folder / "model.onnx.data").open("wb") as file:
        file.truncate(offset)
    return {"nodes": len(nodes), "weights_bytes": offset}


def worker(tool: str, folder: Path) -> None:
    """Run one tool on one model in this process and print what it took as JSON."""
    path = str(folder / "model.onnx")
    started = time.perf_counter()
    if tool == "tokexport":
        from tokexport.graph_passes.compress import compress as run
        from tokexport.graph_passes.ir_tools.model_io import external_tensors
    elif tool == "onnxslim":
        from onnxslim import slim as run
    else:
        from onnxsim import simplify as run
    imported, cpu, read = time.perf_counter(), time.process_time(), _bytes_read()
    model = run(path, "apet", "0.85", seam="tensor:vision") if tool == "tokexport" else run(path)
    cpu = time.process_time() - cpu
    done = time.perf_counter()
    result = {
        "import_seconds": imported - started,
        "call_seconds": done - imported,
        "call_cpu_seconds": cpu,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "read_bytes": _bytes_read() - read,
        "graph_bytes": (folder / "model.onnx").stat().st_size,
    }
    if tool == "tokexport":
        result["weights_mapped"] = sum(tensor.raw is not None for tensor in external_tensors(model))
        result["output_shape"] = list(model.graph.outputs[0].shape)
    print(json.dumps(result))


def _bytes_read() -> int:
    """What this process has read from files so far, the page cache included."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar")))


def measure(tool: str, folder: Path, repeats: int, limit: float) -> dict[str, Any]:
    """The fastest of some fresh processes (slower ones had other load), or how it failed."""
    runs = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--worker", tool, str(folder)]
        started = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done in {limit:g} s"}
        wall = time.perf_counter() - started
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            return {"failed": lines[-1][:300]}
        runs.append({**json.loads(done.stdout.strip().splitlines()[-1]), "process_seconds": wall})
    return min(runs, key=lambda run: run["call_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], Path(options.worker[1]))
        return
    report: dict[str, Any] = {"full": {}, "beside_peers": []}
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as name:
        report["full"] = build(Path(name), *FULL)
        report["full"]["tokexport"] = measure("tokexport", Path(name), options.repeats, PEER_LIMIT_S)
        report["full"]["data_blocks_on_disk"] = (Path(name) / "model.onnx.data").stat().st_blocks
    alive = ["onnxslim", "onnxsim"]
    for size in PEERS:
        with tempfile.TemporaryDirectory() as name:
            row = build(Path(name), *size)
            row["tokexport"] = measure("tokexport", Path(name), options.repeats, PEER_LIMIT_S)
            for tool in list(alive):
                row[tool] = measure(tool, Path(name), 1, PEER_LIMIT_S)
                if "failed" in row[tool]:
                    alive.remove(tool)
                else:
                    for field in ("call_seconds", "call_cpu_seconds", "peak_rss_mb"):
                        row[tool][f"{field}_ratio"] = round(row[tool][field] / row["tokexport"][field], 1)
            report["beside_peers"].append(row)
    full = report["full"]["tokexport"]
    report["bounds"] = {"call_seconds": LIMIT_S, "peak_rss_mb": LIMIT_MB}
    report["within_bounds"] = (
        full.get("call_seconds", 1e9) <= LIMIT_S
        and full.get("peak_rss_mb", 1e9) <= LIMIT_MB
        and full.get("weights_mapped") == 0
        and full.get("read_bytes", 1e18) < 2 * full.get("graph_bytes", 0) + 2**20
    )
    report["load_before"] = load
    write("compress", report, "python benchmarks/bench_compress.py")
    sys.exit(not report["within_bounds"])


if __name__ == "__main__":
    main()
