"""The runtimes, each tried in a process of its own: ONNX Runtime, TensorRT, TensorRT-RTX; and what plugins need."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .findings import OK, PROBLEM, WARNING, Finding, version
from .machine import Machine, Ran
from .packages import requirements

# The oldest TensorRT whose parser takes our graphs: IPluginV3 and opset 18 (devices/rules.toml).
_LEAST_TENSORRT = (10, 0)
INCLUDES = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/tensorrt/include",
    "/opt/tensorrt/include",
)
# The smallest graph with a local function, in the IR version and opset that bundles are written in.
_RUN_A_GRAPH = """
import json
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper as h
info = lambda name: h.make_tensor_value_info(name, TensorProto.FLOAT, [2])
sets = [h.make_opsetid("", {opset}), h.make_opsetid("tokexport", 1)]
body = h.make_function("tokexport", "Twice", ["x"], ["y"], [h.make_node("Add", ["x", "x"], ["y"])], sets[:1])
graph = h.make_graph([h.make_node("Twice", ["x"], ["y"], domain="tokexport")], "g", [info("x")], [info("y")])
model = h.make_model(graph, functions=[body], opset_imports=sets, ir_version={ir})
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
assert session.run(None, {{"x": np.ones(2, np.float32)}})[0].tolist() == [2.0, 2.0]
print(json.dumps([ort.__version__, ort.get_available_providers()]))
"""

# Providers that onnxruntime-gpu has, whether or not their libraries are here.
_GPU_PROVIDERS = {"CUDA": "cuda", "Tensorrt": "tensorrt"}
_LOAD_A_PROVIDER = """
from tokexport.errors import TokexportError
from tokexport.graph_passes.ir_tools.providers import require
try:
    require("{name}")
except TokexportError as error:
    print(error.what, error.fix, sep="\\n")
"""

_FIND_PLUGINS = """
from tokexport.plugins import library
from tokexport.runtimes.tensorrt.cuda import gpu_here
found, gpu = library.find(), gpu_here()
if found:
    if gpu:
        library.require_code(found, gpu)
    print(found, ", ".join(library.creators(found)), sep="\\n")
"""


def onnxruntime(machine: Machine) -> Iterator[Finding]:
    """ONNX Runtime: installed, new enough, and able to run a graph like those of a bundle."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in machine.packages]
    if not installed:
        fix = 'pip install "tokexport[ort]", or with an NVIDIA GPU on x86: pip install "tokexport[ort-gpu]"'
        yield Finding("onnxruntime", WARNING, "not installed; needed by run, verify and the proof of model", fix)
        return
    name = installed[-1]
    least = requirements(machine).get("ort", {}).get("onnxruntime", "")
    found = machine.packages[name]
    if least and version(found) < version(least):
        what = f"{found} is older than {least}, and cannot read IR version 10"
        yield Finding(name, PROBLEM, what, f'pip install -U "{name}>={least}"')
        return
    ran = load_graph(machine, opset=18, ir=10)
    if ran.code is None:
        yield Finding(name, WARNING, f"{found}; it could not be tried: {ran.last_line}", "tokexport doctor --json")
    elif ran.code:
        fix = f"pip uninstall -y {' '.join(installed)} && pip install {name}"
        yield Finding(name, PROBLEM, f"{found} cannot run a graph: {ran.last_line}", fix)
    else:
        providers = re.findall(r"(\w+)ExecutionProvider", ran.out)
        yield Finding(name, OK, f"{found} runs our graphs (opset 18, IR 10); providers: {', '.join(providers)}")
        yield from (_provider(machine, _GPU_PROVIDERS[one]) for one in providers if one in _GPU_PROVIDERS)


def _provider(machine: Machine, name: str) -> Finding:
    """A provider of a GPU, loaded in a process of its own: that ONNX Runtime names it does not say that it works."""
    ran = machine.python_runs(_LOAD_A_PROVIDER.format(name=name))
    what, _, fix = ran.out.strip().partition("\n")
    if ran.code != 0:
        return Finding(f"ort: {name}", WARNING, f"it was tried: {_why_it_failed(ran)}", "tokexport doctor --json")
    return Finding(f"ort: {name}", WARNING if what else OK, what or "loads", fix.removeprefix("Run: "))


def load_graph(machine: Machine, *, opset: int, ir: int) -> Ran:
    """Have ONNX Runtime run a tiny graph of that opset and IR version, in a process of its own."""
    return machine.python_runs(_RUN_A_GRAPH.format(opset=opset, ir=ir))


def tensorrt(machine: Machine) -> Iterator[Finding]:
    """TensorRT's Python module, from pip or from JetPack's Debian package."""
    ran = machine.python_runs("import tensorrt; print(tensorrt.__version__)")
    wheels = [name for name in machine.packages if re.fullmatch(r"tensorrt(-cu\d+)?", name)]
    if ran.code == 0:
        found = ran.out.split()[-1] if ran.out.split() else ""
        if version(found) < _LEAST_TENSORRT:
            fix = "Flash JetPack 6.1 or later." if machine.is_jetson else 'pip install -U "tensorrt>=10.3"'
            what = f"{found} reads none of our graphs: plugins need IPluginV3 (10.0), functions 9.0, both opset 18"
            yield Finding("TensorRT", WARNING, what, fix)
        else:
            yield Finding("TensorRT", OK, f"{found} can be imported")
    elif wheels or (ran.code is not None and "No module named 'tensorrt'" not in ran.err):
        fix = (
            "sudo apt-get install --reinstall python3-libnvinfer"
            if machine.is_jetson
            else f"pip install --force-reinstall {wheels[0] if wheels else 'tensorrt'}"
        )
        yield Finding("TensorRT", PROBLEM, f"installed, and importing it fails: {_why_it_failed(ran)}", fix)
    elif machine.is_jetson:
        fix = "sudo apt-get install nvidia-jetpack, and a virtual environment with --system-site-packages"
        yield Finding("TensorRT", WARNING, "its Python module is not found; JetPack brings it", fix)
    else:
        what = "not installed; only engines need it, not exporting or ONNX Runtime"
        yield Finding("TensorRT", WARNING, what, 'pip install "tokexport[tensorrt]"')


def tensorrt_rtx(machine: Machine) -> Iterator[Finding]:
    """TensorRT-RTX, which parses and builds without a GPU."""
    found = machine.packages.get("tensorrt-rtx")
    least = requirements(machine).get("rtx", {}).get("tensorrt-rtx", "")
    if found is None:
        if machine.arch == "x86_64":
            what = "not installed; it reads graphs as TensorRT does, without a GPU"
            yield Finding("TensorRT-RTX", WARNING, what, 'pip install "tokexport[rtx]"')
        return
    if least and version(found) < version(least):
        what = f"{found} is older than {least}, the first version that loads our plugins"
        yield Finding("TensorRT-RTX", WARNING, what, 'pip install -U "tokexport[rtx]"')
        return
    ran = machine.python_runs("import tensorrt_rtx; print(tensorrt_rtx.__version__)")
    if ran.code == 0:
        yield Finding("TensorRT-RTX", OK, f"{found} can be imported")
    else:
        fix = "pip install --force-reinstall tensorrt-rtx"
        yield Finding("TensorRT-RTX", PROBLEM, f"{found}, and importing it fails: {_why_it_failed(ran)}", fix)


def headers(machine: Machine) -> Iterator[Finding]:
    """NvInfer.h, which the plugin library is compiled against; no wheel has it."""
    named = machine.environment.get("TENSORRT_INCLUDE_DIR")
    for folder in (named, *INCLUDES) if named else INCLUDES:
        text = machine.read(f"{folder}/NvInferVersion.h")
        if text is None:
            continue
        numbers = [re.search(rf"NV_TENSORRT_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR")]
        found = ".".join(number.group(1) for number in numbers if number)
        yield Finding("NvInfer.h", OK, f"{folder}, TensorRT {found or '(version not read)'}")
        return
    fix = (
        "sudo apt-get install nvidia-jetpack"
        if machine.is_jetson
        else "Take include/ of NVIDIA/TensorRT at the tag of your TensorRT, and set TENSORRT_INCLUDE_DIR to it."
    )
    where = f"not found in TENSORRT_INCLUDE_DIR={named}" if named else "not found"
    yield Finding("NvInfer.h", WARNING, f"{where}; only building the plugin library needs it", fix)


def plugins(machine: Machine) -> Iterator[Finding]:
    """The plugin library, loaded in a process of its own."""
    ran = machine.python_runs(_FIND_PLUGINS)
    path, _, names = ran.out.strip().partition("\n")
    if ran.code:
        yield Finding("plugin library", PROBLEM, _why_it_failed(ran), "tokexport plugins build")
    elif names:
        yield Finding("plugin library", OK, f"{path}: {names}")
    else:
        what = "not built; only the plugin form of a graph in TensorRT needs it"
        yield Finding("plugin library", WARNING, what, "tokexport plugins build")


def _why_it_failed(ran: Ran) -> str:
    if ran.code is not None and ran.code < 0:
        return f"it ended the process with signal {-ran.code}"
    return ran.last_line or f"exit code {ran.code}"
