"""Calls of the plugin library's interfaces, as TensorRT makes them, through plugin_host.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_bool, c_char_p, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import torch
from tokexport.graph_passes.compressors import Compressed

# nvinfer1::DataType, PluginFieldType, TensorFormat and TensorRTPhase.
FLOAT, HALF, INT8, INT32, INT64, BF16 = 0, 1, 2, 3, 8, 7
F32, F64, I32, CHAR, I64 = 1, 2, 5, 6, 10
LINEAR, CHW4 = 0, 3
BUILD, RUNTIME = 0, 1
TYPES = {torch.float32: FLOAT, torch.float16: HALF, torch.bfloat16: BF16, torch.int64: INT64}


class Tensor(ctypes.Structure):
    _fields_ = [("type", c_int32), ("format", c_int32), ("rank", c_int32), ("dims", c_int64 * 3)]


class Field(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("data", c_void_p), ("type", c_int32), ("length", c_int32)]


def tensor(shape: Sequence[int], type: int = FLOAT, format: int = LINEAR) -> Tensor:
    """A tensor's description; -1 for a dimension that is not known."""
    return Tensor(type, format, len(shape), (c_int64 * 3)(*shape))


def fields(attributes: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """Attributes as TensorRT's ONNX parser hands them over, and what must live as long; (type, array) goes as it is."""
    made, alive = [], []
    for name, value in attributes.items():
        if isinstance(value, tuple):
            type, data = value
        elif isinstance(value, str):
            type, data = CHAR, ctypes.create_string_buffer(value.encode(), max(1, len(value)))
        elif isinstance(value, float):
            type, data = F32, (ctypes.c_float * 1)(value)
        else:
            items = value if isinstance(value, list) else [value]
            type, data = I32, (c_int32 * len(items))(*items)
        alive.append(data)
        made.append(Field(name.encode(), ctypes.cast(data, c_void_p), type, len(data)))
    return (Field * len(made))(*made), alive


class Host:
    """The plugin library, loaded, and its creators."""

    def __init__(self, host: Path, library: Path) -> None:
        self.dll = ctypes.CDLL(str(host))
        for name in ("host_log", "host_registered", "host_names", "host_fields", "host_core"):
            getattr(self.dll, name).restype = c_char_p
        for name in ("host_creators", "host_create", "host_clone", "host_attached"):
            getattr(self.dll, name).restype = c_void_p
        self.dll.host_stored.restype = ctypes.POINTER(Field)
        self.dll.host_supports.restype = c_bool
        self.dll.host_workspace.restype = c_uint64
        self.library = ctypes.CDLL(str(library))
        self.registered = self.dll.host_registered().decode().splitlines()
        self.creators = c_void_p(self.dll.host_creators(c_void_p(self.library._handle)))
        self.left = self.dll.host_registered().decode().splitlines()
        self.names = self.dll.host_names(self.creators).decode().splitlines()

    def log(self) -> str:
        """What was logged since the last call."""
        return self.dll.host_log().decode()

    def which(self, name: str) -> int:
        return [line.split()[0] for line in self.names].index(name)

    def attributes(self, name: str) -> list[str]:
        """Names of the attributes that a creator tells the parser of."""
        return self.dll.host_fields(self.creators, self.which(name)).decode().splitlines()

    def create(self, name: str, attributes: Mapping[str, Any], phase: int = BUILD) -> Plugin | None:
        given, alive = fields(attributes)
        made = self.dll.host_create(self.creators, self.which(name), b"enc/compress", given, len(given), phase)
        del alive
        return Plugin(self, made) if made else None

    def restore(self, plugin: Plugin, name: str) -> Plugin | None:
        """What an engine does: the fields that it stored, given to the creator again."""
        count = c_int32()
        stored = self.dll.host_stored(plugin.at, ctypes.byref(count))
        made = self.dll.host_create(self.creators, self.which(name), b"enc/compress", stored, count, RUNTIME)
        return Plugin(self, made) if made else None


class Plugin:
    """One plugin; None for what it refuses, whose reason is in `Host.log`."""

    def __init__(self, host: Host, at: int) -> None:
        self.host, self.dll, self.at = host, host.dll, c_void_p(at)

    def __del__(self) -> None:
        self.dll.host_destroy(self.at)

    def clone(self) -> Plugin:
        return Plugin(self.host, self.dll.host_clone(self.at))

    def attached(self) -> Plugin:
        return Plugin(self.host, self.dll.host_attached(self.at))

    def core(self) -> str:
        return self.dll.host_core(self.at).decode()

    def stored(self) -> dict[str, tuple[int, bytes]]:
        """Name -> type and bytes of what an engine stores."""
        count = c_int32()
        found = self.dll.host_stored(self.at, ctypes.byref(count))
        size = {F32: 4, I32: 4, CHAR: 1, I64: 8}
        return {
            field.name.decode(): (field.type, ctypes.string_at(field.data, field.length * size[field.type]))
            for field in found[: count.value]
        }

    def types(self, *inputs: int) -> list[int] | None:
        outputs = (c_int32 * 4)()
        status = self.dll.host_types(self.at, (c_int32 * len(inputs))(*inputs), len(inputs), outputs)
        return list(outputs) if status == 0 else None

    def shapes(self, *inputs: Sequence[int]) -> list[list[int]] | None:
        given, outputs = (Tensor * len(inputs))(*map(tensor, inputs)), (Tensor * 4)()
        status = self.dll.host_shapes(self.at, given, len(inputs), outputs)
        return [list(output.dims)[: output.rank] for output in outputs] if status == 0 else None

    def supports(self, position: int, tensors: Sequence[Tensor]) -> bool:
        return self.dll.host_supports(self.at, position, (Tensor * len(tensors))(*tensors), len(tensors) - 4)

    def configure(self, *inputs: Tensor) -> bool:
        return self.dll.host_configure(self.at, (Tensor * (len(inputs) + 4))(*inputs), len(inputs)) == 0

    def workspace(self, *inputs: Tensor) -> int:
        return self.dll.host_workspace(self.at, (Tensor * (len(inputs) + 4))(*inputs), len(inputs))

    def enqueue(
        self,
        *inputs: torch.Tensor,
        scratch: int | None = None,
        outputs: Sequence[Sequence[int]] | None = None,
    ) -> Compressed[torch.Tensor] | None:
        """On the CPU, with a workspace of as many bytes and outputs of such shapes as the plugin says, or as said here.

        Memory is full of what a kernel must not rely on, and what lies before and behind the workspace stays so.
        """
        kinds = (inputs[0].dtype, torch.int64, torch.float32, torch.int64)
        shapes = outputs or self.shapes(*(value.shape for value in inputs))
        made = [torch.full(shape, -77, dtype=dtype) for shape, dtype in zip(shapes, kinds)]
        descs = [tensor(value.shape, TYPES[value.dtype]) for value in (*inputs, *made)]
        room = self.workspace(*descs[: len(inputs)]) if scratch is None else scratch
        workspace = torch.full((16 + room + 16,), 0xFF, dtype=torch.uint8)
        pointers = [(c_void_p * len(many))(*(value.data_ptr() for value in many)) for many in (inputs, made)]
        status = self.dll.host_enqueue(
            self.at,
            (Tensor * len(descs))(*descs),
            len(inputs),
            *pointers,
            c_void_p(workspace.data_ptr() + 16 if room else None),
        )
        assert (workspace[:16] == 0xFF).all() and (workspace[16 + room :] == 0xFF).all()
        return Compressed(*made) if status == 0 else None
