"""The C ABI of kernels/tokexport_kernels.h in Python: a node's attributes as parameters, and calls on device pointers.

For the Python plugin, tests and benchmarks; the C++ plugins do the same from the same attributes. What each kernel
takes is in `schema.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import GraphError, MissingError, TokexportError, nearest
from .schema import (
    PLUGINS,
    Attribute,
    Choice,
    Constant,
    Dtype,
    Enum,
    Grid,
    Parameter,
    Plugin,
    Width,
)
from .structs import PARAMETERS, Outputs, Shape, Workspace


class Signal(NamedTuple):
    """An input beside the tokens: the code of its dtype, and its shape."""

    dtype: int
    shape: tuple[int, ...]


class Attributes:
    """Attributes of a plugin node, read with errors that name the node and what is allowed."""

    def __init__(self, node: str, values: Mapping[str, Any]) -> None:
        self.node, self.values = node, values

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            raise self.error(f"it has no attribute {name!r}")
        return self.values[name]

    def code(self, name: str, enum: Enum) -> int:
        """The code of an enumeration's value."""
        if self[name] not in enum.words:
            raise self.error(f"attribute {name} is {self[name]!r}", nearest(self[name], enum.words, kind="values"))
        return enum.words.index(self[name])

    def grid(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        grid = self["grid"]
        if isinstance(grid, str) or len(grid) != 3:
            raise self.error(f"attribute grid is {grid!r}, not [frames, height, width]")
        frames, height, width = grid
        return frames, height, width

    def error(self, what: str, fix: str = "") -> GraphError:
        """An error about this node."""
        again = "Make the plugin form again with this version of tokexport."
        return GraphError(f"{self.node}: {what}", fix=fix or again)


def params_of(
    method: str, attributes: Mapping[str, Any], shape: Shape, signals: Sequence[Signal] = ()
) -> ctypes.Structure | None:
    """The parameters that a method's kernel takes; None where it takes none.

    Args:
        method: one of `schema.PLUGINS`.
        attributes: of its plugin node, as `forms.to_plugin` writes them.
        shape: of the call.
        signals: the node's inputs beside the tokens; where they are left out they are of the dtype of the tokens.

    Raises:
        GraphError: an attribute is not there, or not one of its values; or a signal has another shape than they say.
    """
    return read_params(PLUGINS[method], Attributes(method, attributes), shape, signals)


def read_params(plugin: Plugin, given: Attributes, shape: Shape, signals: Sequence[Signal]) -> ctypes.Structure | None:
    """The same for attributes that know their node."""
    for one in plugin.more:
        _read(one, given)
    for known, signal in zip(plugin.signals, signals):
        expected = (given[known.count], shape.dim) if known.count else signal.shape[1:]
        if signal.shape[1:] != expected:
            raise given.error(f"{known.name} is {list(signal.shape)}, not [B, {expected[0]}, {expected[1]}]")
    if not plugin.kernel.parameters:
        return None
    values = [value for one in plugin.kernel.parameters for value in _values(one, plugin, given, shape, signals)]
    return PARAMETERS[plugin.entry](*values)


def _values(
    one: Parameter, plugin: Plugin, given: Attributes, shape: Shape, signals: Sequence[Signal]
) -> tuple[Any, ...]:
    """A parameter, as the members of the structure: three of a grid, one of any other."""
    if isinstance(one, Constant):
        return (0,)
    if isinstance(one, Dtype):
        return (signals[one.input].dtype if one.input < len(signals) else shape.dtype,)
    if isinstance(one, Width):
        return (signals[one.input].shape[-1] if one.input < len(signals) else 0,)
    if isinstance(one, Choice) and one.name in plugin.preset:
        return (one.enum.words.index(plugin.preset[one.name]),)
    return _read(one, given)


def _read(one: Attribute, given: Attributes) -> tuple[Any, ...]:
    if isinstance(one, Grid):
        return given.grid()
    return (given.code(one.name, one.enum) if isinstance(one, Choice) else given[one.name],)


def symbol(method: str) -> str:
    """The entry point that computes a method."""
    return f"tokexport_{PLUGINS[method].entry if method in PLUGINS else method}"


class KernelError(TokexportError):
    """A kernel refused its arguments, or CUDA failed; `status` is the code."""

    def __init__(self, method: str, status: int, message: str) -> None:
        super().__init__(f"kernel {method}: {message}", where=f"status {status}")
        self.status = status


class Library:
    """A library with the kernels in it: ``libtokexport_kernels.so`` or ``libtokexport_plugins.so``.

    Raises:
        MissingError: it cannot be loaded, or has no kernels.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.dll = ctypes.CDLL(str(path))
            for say in (self.dll.tokexport_message, self.dll.tokexport_architectures):
                say.restype = c_char_p
        except (OSError, AttributeError) as error:
            raise MissingError(
                f"this library cannot be used: {error}", where=str(path), fix="Run: tokexport plugins build"
            ) from None
        self.dll.tokexport_message.argtypes = [c_int]
        self.path = path

    def kernels(self) -> list[str]:
        """The methods of `schema.PLUGINS` whose kernels are really in it."""
        return [method for method in PLUGINS if hasattr(self.dll, symbol(method))]

    def architectures(self) -> list[str]:
        """What it was compiled for, as CMake has it: ``87-real``, ...; empty where its build did not say."""
        return str(self.dll.tokexport_architectures().decode()).split()

    def message(self, status: int) -> str:
        """The text of a status."""
        return str(self.dll.tokexport_message(status).decode())

    def workspace_bytes(self, method: str, shape: Shape, params: ctypes.Structure | None = None) -> int:
        """Bytes of scratch memory.

        Raises:
            KernelError: arguments that the kernel refuses.
        """
        size = c_size_t(0)
        given = [ctypes.byref(part) for part in (shape, params) if part is not None]
        self._require(method, getattr(self.dll, f"{symbol(method)}_workspace")(*given, ctypes.byref(size)))
        return size.value

    def call(
        self,
        method: str,
        shape: Shape,
        params: ctypes.Structure | None,
        inputs: Sequence[int | None],
        outputs: Sequence[int],
        workspace: Workspace,
        stream: int = 0,
    ) -> None:
        """Enqueue a kernel.

        Args:
            method: whose.
            shape: B, N, D, K, dtype.
            params: as `params_of` gives them.
            inputs: device pointers to tokens and to every signal that the kernel takes, None for one left out.
            outputs: device pointers to tokens, kept_indices, sizes, assignment.
            workspace: of at least `workspace_bytes`.
            stream: a cudaStream_t.

        Raises:
            KernelError: arguments that the kernel refuses, or a launch that failed.
        """
        arguments = [
            *(ctypes.byref(part) for part in (shape, params) if part is not None),
            *map(c_void_p, inputs),
            Outputs(*outputs),
            workspace,
            c_void_p(stream),
        ]
        self._require(method, getattr(self.dll, symbol(method))(*arguments))

    def _require(self, method: str, status: int) -> None:
        if status != 0:
            raise KernelError(method, status, self.message(status))
