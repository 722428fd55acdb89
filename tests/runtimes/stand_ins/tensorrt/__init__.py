"""A stand-in for TensorRT 10.3: an "engine" is the ONNX file with its weights, and ONNX Runtime runs it on host memory.

It keeps the rules that our code relies on: a network must be strongly typed, a timing cache and a plan carry the
version and the GPU they were made with, types are told by the inspector only at detailed verbosity, every tensor needs
an address, and work goes to a stream of the stand-in for CUDA. It has no kernels, no plugins, no speed, and it accepts
graphs that TensorRT would not. STAND_IN_BUILD names a file in the environment whose lines a build logs before it fails.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
from cuda.bindings import runtime as cuda

__version__ = os.environ.get("STAND_IN_TENSORRT", "10.3.0")

TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "DETAILED"])
LayerInformationFormat = enum.Enum("LayerInformationFormat", ["ONELINE", "JSON"])
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
BuilderFlag = enum.Enum("BuilderFlag", ["TF32"])
NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
_TYPES = {1: "FLOAT", 10: "HALF", 7: "INT64", 6: "INT32", 9: "BOOL", 11: "DOUBLE"}
_INSPECTED = {"FLOAT": "Row major linear FP32", "HALF": "Row major linear FP16 format", "INT64": "Int64"}


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class IProgressMonitor:
    pass


def _gpu():
    return os.environ.get("STAND_IN_SM", "8.7")


def _types(model):
    graph = onnx.shape_inference.infer_shapes(model).graph
    infos = [*graph.value_info, *graph.input, *graph.output]
    return {info.name: _TYPES.get(info.type.tensor_type.elem_type, "OTHER") for info in infos}


def _tensor(name, types):
    return SimpleNamespace(name=name, dtype=SimpleNamespace(name=types.get(name, "OTHER")))


class Network:
    def __init__(self, flags):
        self.typed, self.model = bool(flags & 2), None

    def load(self, model):
        self.model, types = model, _types(model)
        self.inputs = [_tensor(value.name, types) for value in model.graph.input]
        self.layers = [
            SimpleNamespace(
                name=node.name,
                type=SimpleNamespace(name=node.op_type.upper()),
                num_outputs=len(node.output),
                get_output=[_tensor(name, types) for name in node.output].__getitem__,
            )
            for node in model.graph.node
        ]
        self.num_inputs, self.num_layers = len(self.inputs), len(self.layers)
        self.get_input, self.get_layer = self.inputs.__getitem__, self.layers.__getitem__


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.num_errors = network, 0

    def parse(self, content, path):
        model = onnx.load_from_string(content)
        onnx.load_external_data_for_model(model, str(Path(path).parent))
        self.network.load(model)
        return True


class TimingCache:
    def __init__(self, content):
        self.lines = json.loads(content) if content else {"version": __version__, "gpu": _gpu(), "builds": 0}

    def serialize(self):
        return json.dumps(self.lines).encode()


class Config:
    def __init__(self):
        self.tf32, self.cache, self.profiling_verbosity, self.progress_monitor = True, None, None, None
        self.pools = {}

    def clear_flag(self, flag):
        self.tf32 = self.tf32 and flag is not BuilderFlag.TF32

    def set_memory_pool_limit(self, pool, size):
        self.pools[pool] = size

    def create_timing_cache(self, content):
        try:
            return TimingCache(content)
        except ValueError:
            return None

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return (cache.lines["version"], cache.lines["gpu"]) == (__version__, _gpu())

    def get_timing_cache(self):
        return self.cache


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags=0):
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def build_serialized_network(self, network, config):
        failing = os.environ.get("STAND_IN_BUILD")
        if failing:
            for line in Path(failing).read_text().splitlines():
                self.logger.log(ILogger.ERROR, line)
            return None
        assert network.typed and not config.tf32, "types are not those of the graph alone"
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        monitor.step_complete("Building engine", 0)
        monitor.phase_start("Timing", "Building engine", 1)
        monitor.phase_finish("Timing")
        monitor.step_complete("Building engine", 1)
        monitor.phase_finish("Building engine")
        config.cache.lines["builds"] += 1
        detailed = config.profiling_verbosity is ProfilingVerbosity.DETAILED
        head = {"version": __version__, "gpu": _gpu(), "detailed": detailed}
        return json.dumps(head).encode() + b"\n" + network.model.SerializeToString()


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        head, _, graph = bytes(plan).partition(b"\n")
        head = json.loads(head)
        if head["version"] != __version__:
            self.logger.log(ILogger.ERROR, "Serialization assertion failed.Version tag does not match.")
            return None
        return Engine(onnx.load_from_string(graph), head["detailed"])


class Engine:
    def __init__(self, model, detailed):
        self.model, self.detailed, self.types = model, detailed, _types(model)
        self.values = [*model.graph.input, *model.graph.output]
        self.num_io_tensors = len(self.values)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def get_tensor_name(self, index):
        return self.values[index].name

    def get_tensor_mode(self, name):
        inside = any(value.name == name for value in self.model.graph.input)
        return TensorIOMode.INPUT if inside else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.types[name])

    def get_tensor_shape(self, name):
        (value,) = [value for value in self.values if value.name == name]
        return tuple(axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim)

    def create_execution_context(self):
        return Context(self)

    def create_engine_inspector(self):
        layers = [
            {
                "Name": node.name,
                "LayerType": "Fused",
                "Outputs": [
                    {"Name": name, "Format/Datatype": _INSPECTED.get(self.types.get(name), "None")}
                    for name in node.output
                ],
            }
            for node in self.model.graph.node
        ]
        told = layers if self.detailed else [layer["Name"] for layer in layers]
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": told, "Bindings": []}))


class Context:
    def __init__(self, engine):
        self.engine, self.addresses = engine, {}

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        addresses = dict(self.addresses)
        assert addresses.keys() == {value.name for value in self.engine.values}, "a tensor without an address"
        cuda.enqueue(stream, lambda: self._run(addresses))
        return True

    def _run(self, addresses):
        session, numpy = self.engine.session, onnx.helper.tensor_dtype_to_np_dtype
        at = {}
        for value in self.engine.values:
            dtype = numpy(value.type.tensor_type.elem_type)
            shape = self.engine.get_tensor_shape(value.name)
            size = int(np.prod(shape)) * dtype.itemsize
            memory = (ctypes.c_byte * size).from_buffer(cuda.LIVE[addresses[value.name]])
            at[value.name] = np.frombuffer(memory, dtype).reshape(shape)
        feeds = {value.name: at[value.name].copy() for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        for name, array in zip(names, session.run(names, feeds)):
            np.copyto(at[name], array)
