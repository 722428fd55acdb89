"""The compressors as TensorRT plugins written in Python, over the C ABI: for prototypes, and to build without a GPU.

They take the same nodes as the C++ plugins. A build that will not run needs no kernels: the library is loaded when the
first kernel is enqueued. But how much scratch memory a kernel needs is the library's to say and the build's to ask, so
an engine that was built without the library is refused when it runs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import MissingError, RequestError, nearest
from ..graph_passes.forms import PLUGIN_NAMESPACE, PLUGIN_VERSION, plugin_name
from .abi import Attributes, Library, Signal, read_params
from .library import COMMAND, find, registered
from .schema import PLUGINS
from .structs import MAX_BATCH, MAX_DIM, MAX_TOKENS, Shape, Workspace

# Whether the workspace in an engine is the kernel's own figure; stored beside the node's attributes.
_SIZED = "sized"


def register(trt: Any, names: Iterable[str]) -> None:
    """Make plugins known to TensorRT; one of that name that is known already stays.

    Args:
        trt: the module `tensorrt` (10.3 or later) or `tensorrt_rtx`.
        names: TokexportApet, ...

    Raises:
        RequestError: a plugin that has no kernel.
    """
    known, there = {plugin_name(method): method for method in PLUGINS}, registered(trt)
    for name in names:
        if name not in known:
            raise RequestError(f"there is no kernel for plugin {name!r}", fix=nearest(name, known, kind="plugins"))
        if name not in there:
            trt.get_plugin_registry().register_creator(_creator(trt, known[name]), PLUGIN_NAMESPACE)


@functools.cache
def _creator(trt: Any, method: str) -> Any:
    """The creator, kept alive: a registry does not. Classes of plugins derive from classes of their module."""
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)
    plugin = type("Plugin", (_Plugin, *bases), {"trt": trt, "bases": bases})
    return type("Creator", (_Creator, trt.IPluginCreatorV3One), {"trt": trt, "plugin": plugin})(method)


@functools.cache
def _kernels() -> Library | None:
    path = find(kernels_only=True)
    return Library(path) if path else None


class _Plugin:
    """One node as TensorRT sees it. An exception ends up in TensorRT's log and fails the build."""

    trt: Any
    bases: tuple[Any, ...]

    def __init__(self, node: str, method: str, attributes: Mapping[str, Any]) -> None:
        for base in self.bases:
            base.__init__(self)
        self.node, self.method, self.attributes = node, method, attributes
        self.wrapped, self.given = PLUGINS[method], Attributes(f"{plugin_name(method)} {node!r}", attributes)
        self.plugin_name, self.plugin_version = plugin_name(method), PLUGIN_VERSION
        self.plugin_namespace, self.num_outputs = PLUGIN_NAMESPACE, 4
        float32, int64 = self.trt.DataType.FLOAT, self.trt.DataType.INT64
        self.dtypes = {float32: 0, self.trt.DataType.HALF: 1, self.trt.DataType.BF16: 2}
        self.others = [int64, float32, int64]

    def get_capability_interface(self, kind: Any) -> Any:
        return self

    def clone(self) -> Any:
        return type(self)(self.node, self.method, self.attributes)

    def attach_to_context(self, context: Any) -> Any:
        return self.clone()

    def get_output_data_types(self, inputs: Sequence[Any]) -> list[Any]:
        self._require_dtype(inputs[0])
        return [inputs[0], *self.others]

    def get_output_shapes(self, inputs: Sequence[Any], shapes: Sequence[Any], expressions: Any) -> list[Any]:
        batch, tokens, dim = inputs[0]
        keep = expressions.constant(self.given["keep"])
        return [
            self.trt.DimsExprs(dims) for dims in ([batch, keep, dim], [batch, keep], [batch, keep], [batch, tokens])
        ]

    def supports_format_combination(self, position: int, tensors: Sequence[Any], inputs: int) -> bool:
        asked, tokens = tensors[position].desc, tensors[0].desc.type
        allowed = {"tokens": [tokens], "float32": [self.trt.DataType.FLOAT], "any": list(self.dtypes)}
        signals = [allowed[one.kind] for one in self.wrapped.kernel.inputs[: inputs - 1]]
        types = [list(self.dtypes), *signals, [tokens], *([dtype] for dtype in self.others)]
        return asked.format == self.trt.TensorFormat.LINEAR and asked.type in types[position]

    def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        self._arguments([one.desc for one in inputs], [one.max for one in inputs])

    def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        library = _kernels()
        shape, params = self._arguments([one.desc for one in inputs], [one.max for one in inputs])
        return 0 if library is None else library.workspace_bytes(self.method, shape, params)

    def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        self._arguments(inputs, [one.dims for one in inputs])

    def enqueue(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        read: Sequence[int],
        written: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        library = _kernels()
        if library is None or not self.given[_SIZED]:
            raise MissingError(
                f"there were no kernels {'here' if library is None else 'where this engine was built'}",
                where=self.given.node,
                fix=f"Run: {COMMAND} --kernels-only, and build the engine again.",
            )
        shape, params = self._arguments(inputs, [one.dims for one in inputs])
        size = library.workspace_bytes(self.method, shape, params)
        left_out = [None] * (1 + len(self.wrapped.kernel.inputs) - len(read))
        library.call(self.method, shape, params, [*read, *left_out], written, Workspace(workspace, size), stream)

    def get_fields_to_serialize(self) -> Any:
        # A field points at its data, which must live as long as the plugin.
        self.stored = {name: _stored(value) for name, value in self.attributes.items()}
        kinds = _field_kinds(self.trt)
        fields = [self.trt.PluginField(name, data, kinds[type(self.given[name])]) for name, data in self.stored.items()]
        return self.trt.PluginFieldCollection(fields)

    def _arguments(self, descs: Sequence[Any], dims: Sequence[Any]) -> tuple[Shape, Any]:
        """Shape and parameters of a call; within the limits of all kernels, what else a kernel refuses it says."""
        batch, tokens, dim = dims[0]
        keep = self.given["keep"]
        limits = {"batch": (batch, MAX_BATCH), "N": (tokens, MAX_TOKENS), "D": (dim, MAX_DIM), "keep": (keep, tokens)}
        for name, (value, most) in limits.items():
            if not 1 <= value <= most:
                raise self.given.error(f"{name} is {value}", f"The kernels take 1 to {most}.")
        shape = Shape(batch, tokens, dim, keep, self._require_dtype(descs[0].type))
        signals = [Signal(self.dtypes[desc.type], tuple(sides)) for desc, sides in zip(descs[1:], dims[1:])]
        return shape, read_params(self.wrapped, self.given, shape, signals)

    def _require_dtype(self, dtype: Any) -> int:
        if dtype not in self.dtypes:
            raise self.given.error(f"tokens are {dtype}", "The kernels take float32, float16 and bfloat16.")
        return self.dtypes[dtype]


class _Creator:
    """Makes the plugins of one method, from a node of a graph or from an engine."""

    trt: Any
    plugin: Any

    def __init__(self, method: str) -> None:
        self.trt.IPluginCreatorV3One.__init__(self)
        self.method, self.name = method, plugin_name(method)
        self.plugin_version, self.plugin_namespace = PLUGIN_VERSION, PLUGIN_NAMESPACE
        self.types = {"keep": int, **PLUGINS[method].types}
        kinds = _field_kinds(self.trt)
        fields = [self.trt.PluginField(name, b"", kinds[kind]) for name, kind in self.types.items()]
        self.field_names = self.trt.PluginFieldCollection(fields)

    def create_plugin(self, node: str, fields: Any, phase: Any) -> Any:
        types = {**self.types, _SIZED: int}
        given = {one.name: _value(one.data, types[one.name]) for one in fields if one.name in types}
        if phase == self.trt.TensorRTPhase.BUILD:
            given[_SIZED] = int(_kernels() is not None)
        made = self.plugin(node, self.method, given)
        for name in types:
            made.given[name]
        return made


def _field_kinds(trt: Any) -> dict[type, Any]:
    kinds = trt.PluginFieldType
    return {int: kinds.INT32, list: kinds.INT32, float: kinds.FLOAT32, str: kinds.CHAR}


def _stored(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    return np.asarray(value, np.float32 if isinstance(value, float) else np.int32)


def _value(data: Any, kind: type) -> Any:
    array = np.asarray(data)
    if kind is str:
        return array.tobytes().decode().rstrip("\0")
    values = array.ravel().tolist()
    return values if kind is list else kind(values[0])
